import json
import logging
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sonokit.backbones.folder import save_backbone
from sonokit.clips.cache import CachedClip
from sonokit.clips.decode import content_hash
from sonokit.clips.sampling import Sampling
from sonokit.clips.simulation.video_writing import write_video as write_clip
from sonokit.errors import SonokitError
from sonokit.features.explain.checks import MapChecks
from sonokit.features.explain.explanation import ExplainSettings, explain_clip
from sonokit.features.explain.folder import explain, extractor_at, read_for_explaining
from sonokit.features.explain.strip import checks_in_words, three_moments, write_strip
from sonokit.features.explain.video import most_probable, write_video
from sonokit.features.extractors.biomarkers import BiomarkerExtractor, SegmentPlan
from sonokit.features.extractors.folder import ExtractorNote, save_extractor

QUICK = ExplainSettings(checks=False)


@pytest.fixture(scope="module")
def extractor(backbone):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BiomarkerExtractor(backbone, ("first", "second"), plan=SegmentPlan(4, 2), size=64, embedding=8).eval()


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    """20 frames at 10 Hz, 47 x 80 of them once they are read (a gif may have any size)."""
    file = tmp_path_factory.mktemp("clip") / "a-clip.gif"
    frames = np.random.default_rng(1).integers(0, 256, (20, 48, 80), dtype=np.uint8)
    write_clip(file, frames, 10)
    return file


@pytest.fixture(scope="module")
def models(extractor, clip_file, tmp_path_factory):
    """An extractor set: the final extractor and that of fold 0 have seen the clip, that of fold 1 has not."""
    folder = tmp_path_factory.mktemp("models") / "set"
    save_backbone(extractor.backbone, folder / "backbone", provenance={"fitted_on_labels": False})
    for place, fold, seen in (("final", None, True), ("fold-0", 0, True), ("fold-1", 1, False)):
        clips = {"this": content_hash(str(clip_file))} if seen else {"another": "0" * 64}
        provenance = {
            "fitted_on_labels": True,
            "labels": ["first", "second"],
            "training_clips": clips,
            "training_patients": ["p"],
        }
        sampling = {"frames": 8, "rate_hz": None}
        note = ExtractorNote(sampling=sampling, settings={}, provenance=provenance, training="t", fold=fold)
        save_extractor(extractor, folder / place, folder / "backbone", note)
    (folder / "set.json").write_text(json.dumps({"kind": "extractor-set", "folds": 2}))
    return folder


def test_explain__writes_a_folder_that_says_what_the_library_says(models, clip_file, extractor, tmp_path):
    out = tmp_path / "out"
    found = explain(str(clip_file), models / "fold-1", out, QUICK, config={"method": "gradcam"})
    names = {"explanation.json", "strip.png", "explanation.mp4", "config.yaml", "environment.json"}
    assert {file.name for file in out.iterdir()} == names
    told = json.loads((out / "explanation.json").read_text())
    expected = explain_clip(extractor, read_for_explaining(str(clip_file), Sampling(frames=8)), QUICK)
    np.testing.assert_array_equal(found.maps, expected.maps)
    assert told["clip"] == {"name": "a-clip.gif", "content_hash": content_hash(str(clip_file)), "frame_count": 20}
    assert told["trained_on_this_clip"] is False
    assert told["extractor"]["fold"] == 1
    assert told["clip_probabilities"]["second"] == pytest.approx(float(expected.clip_probabilities[1]), abs=1e-5)
    assert len(told["segments"]) == 4
    assert [moment["time_s"] for moment in told["moments"]] == [0.1, 0.3, 0.6, 0.8, 1.1, 1.3, 1.6, 1.8]
    assert set(told["maps"]) == {"first", "second"}


def test_explain__warns_of_a_clip_that_the_final_extractor_has_seen_and_names_one_that_has_not(
    models, clip_file, tmp_path, caplog
):
    with caplog.at_level(logging.WARNING):
        explain(str(clip_file), models, tmp_path / "out", QUICK)
    (record,) = caplog.records
    assert "a-clip.gif is one of the clips that this extractor was trained on" in record.message
    assert record.message.endswith(f"{models / 'fold-1'} has not seen it")
    assert json.loads((tmp_path / "out" / "explanation.json").read_text())["trained_on_this_clip"] is True


def test_explain__refusals(models, clip_file, tmp_path):
    with pytest.raises(SonokitError, match="backbone names no biomarkers, so there is nothing to explain: give an extractor"):
        explain(str(clip_file), models / "backbone", tmp_path / "out")
    with pytest.raises(SonokitError, match="names no biomarkers"):
        extractor_at(tmp_path / "nothing")
    with pytest.raises(SonokitError, match=r"gone\.mp4 cannot be explained: there is no such file"):
        explain(str(tmp_path / "gone.mp4"), models / "fold-1", tmp_path / "out")
    with pytest.raises(SonokitError, match="the video can show first, not 'second'"):
        settings = ExplainSettings(biomarkers=("first",), checks=False)
        explain(str(clip_file), models / "fold-1", tmp_path / "out", settings, film="second")
    assert not (tmp_path / "out").exists()
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(SonokitError, match=r"holds other things \(letters.txt"):
        explain(str(clip_file), models / "fold-1", tmp_path)


def test_explain__more_frames_than_in_training(models, clip_file, tmp_path):
    found = explain(str(clip_file), models / "fold-1", tmp_path / "out", QUICK, frames=100)
    assert len(found.frames) == 20  # all that there are
    assert len(found.segment_probabilities) == 4
    with av.open(str(tmp_path / "out" / "explanation.mp4")) as film:
        assert film.streams.video[0].average_rate == 10  # every frame: the clip's own rate


@pytest.fixture(scope="module")
def explanation(extractor):
    frames = np.random.default_rng(2).integers(0, 256, (9, 47, 81), dtype=np.uint8)
    times = np.arange(9, dtype=np.float32) / 10
    return explain_clip(extractor, CachedClip("clip", "0" * 64, frames, times, 10.0, "gif", 9, 9))


def film_frames(file):
    with av.open(str(file)) as film:
        stream = film.streams.video[0]
        return stream, stream.average_rate, [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]


def test_write_video__decodes_frame_for_frame(explanation, tmp_path):
    stream, rate, frames = film_frames(write_video(explanation, tmp_path / "film.mp4"))
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert len(frames) == 9
    assert rate == 8
    assert all(side % 2 == 0 for side in frames[0].shape[:2])
    odd = write_video(explanation, tmp_path / "slow.mp4", "first", frame_rate=12.5)
    assert film_frames(odd)[1] == Fraction(25, 2)


def test_write_video__the_marked_bar_moves_and_the_frame_is_the_clips(explanation, tmp_path):
    frames = film_frames(write_video(explanation, tmp_path / "film.mp4", "first"))[2]
    marked = []
    for frame in frames:
        panel = frame[frame.shape[0] // 2 :, -352:].astype(int)  # the lower row: its name is not marked
        orange = (panel[..., 0] > 200) & (abs(panel[..., 1] - 170) < 40) & (panel[..., 2] < 120)
        marked.append(float(np.nonzero(orange)[1].mean()))
    steps = np.diff(marked)
    np.testing.assert_allclose(steps, (352 - 28) / 9, atol=3)
    left = frames[4][:, :448].mean(axis=2)
    rows = np.flatnonzero(left.max(axis=1) > 60)  # a frame of 47 x 81 fills the width: 260 of the rows
    assert abs((rows[-1] - rows[0] + 1) - 448 * 47 / 81) < 8


def test_write_video__twice_gives_the_same_bytes_and_unknown_names_are_refused(explanation, tmp_path):
    one, other = (write_video(explanation, tmp_path / name) for name in ("a.mp4", "b.mp4"))
    assert one.read_bytes() == other.read_bytes()
    assert most_probable(explanation) == ("first", "second")[int(explanation.clip_probabilities.argmax())]
    with pytest.raises(SonokitError, match="can show first, second, not 'third'"):
        write_video(explanation, tmp_path / "c.mp4", "third")


def test_write_strip__is_a_picture_with_a_row_a_biomarker(explanation, tmp_path):
    one, other = (write_strip(explanation, tmp_path / name, title="clip") for name in ("a.png", "b.png"))
    assert one.read_bytes() == other.read_bytes()
    with Image.open(one) as picture:
        assert picture.format == "PNG"
        assert picture.height == pytest.approx((2 * 2.0 + 1.5) * 130, abs=2)
    assert write_strip(explanation, tmp_path / "c.png", title="clip", note="beware").read_bytes() != one.read_bytes()


def test_write_strip__of_one_frame_without_a_frame_rate(extractor, tmp_path):
    still = CachedClip("s", "0" * 64, np.full((1, 30, 20), 90, np.uint8), np.zeros(1, np.float32), float("nan"), "png", 1, 1)
    explanation = explain_clip(extractor, still, QUICK)
    with Image.open(write_strip(explanation, tmp_path / "still.png", title="still")) as picture:
        assert picture.height == pytest.approx((2 * 2.0 + 1.5) * 130, abs=2)
    assert len(film_frames(write_video(explanation, tmp_path / "still.mp4"))[2]) == 1


def test_three_moments__by_hand():
    assert three_moments(np.array([0.2, 0.9, 0.1, 0.5, 0.6])) == {"most": 1, "median": 3, "least": 2}
    assert three_moments(np.array([0.2, 0.9])) == {"most": 1, "least": 0}
    assert three_moments(np.array([0.2])) == {"most": 0}


def test_checks_in_words__says_what_is_known():
    checks = MapChecks(0.91, 0.4, None, 0.123, 0.5, 0.0)
    assert checks_in_words(checks) == "map in sector 91% (its area 40%), likeness to random heads' 0.12"
    assert checks_in_words(MapChecks(None, None, -0.25, None, None, 0.0)) == "likeness to brightness -0.25"
