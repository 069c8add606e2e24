import av
import numpy as np
import pytest
from scipy import ndimage
from sonokit.clips.simulation.video_writing import write_video


def moving_blobs():
    noise = np.random.default_rng(0).standard_normal((12, 64, 80))
    smooth = ndimage.gaussian_filter(noise, (1, 4, 4))
    return np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)).astype(np.uint8)


@pytest.mark.parametrize(("ending", "codec", "mean_error"), [("mp4", "h264", 3.0), ("avi", "mjpeg", 3.0), ("gif", "gif", 0.0)])
def test_write_video__reads_back(tmp_path, ending, codec, mean_error):
    frames, path = moving_blobs(), tmp_path / "new" / f"clip.{ending}"
    write_video(path, frames, 20)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = np.stack([f.to_ndarray(format="gray") for f in container.decode(stream)])
        assert stream.codec_context.name == codec
        assert float(stream.average_rate) == pytest.approx(20, rel=0.01)
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() <= mean_error
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_write_video__refuses_what_it_cannot_write(tmp_path):
    frames = moving_blobs()
    for bad, name in (
        (frames, "clip.mkv"),
        (frames[:, :63], "clip.mp4"),
        (frames.astype(float), "clip.mp4"),
        (frames[0], "clip.gif"),
    ):
        with pytest.raises(ValueError, match="cannot write"):
            write_video(tmp_path / name, bad, 20)
    assert not list(tmp_path.iterdir())
