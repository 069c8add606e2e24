import numpy as np
import pytest
import torch
from sonokit.clips.augment import resize
from sonokit.distill.export.frames import resized
from sonokit.distill.export.heat_map_points import points_of
from sonokit.distill.landmarks.heat_maps import decode, target_maps
from sonokit.distill.training.views import clip_views


class _Clips:
    """What is needed of cached clips."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> "_Clips":
        return self


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Speckle, a sector's black outside, and thin lines: where scaling goes wrong first."""
    rng = np.random.default_rng(0)
    made = rng.integers(0, 256, (3, 224, 224)).astype(np.uint8)
    made[1, :, :70] = 0
    made[2] = 0
    made[2, ::7] = 255
    return made


@pytest.mark.parametrize("size", [64, 112, 128, 160, 192, 224, 256])
def test_resized__the_pixels_of_training(frames: np.ndarray, size: int) -> None:
    trained = clip_views(_Clips(frames), np.zeros(1, dtype=np.int64), None, size=size).frames
    found = resized(frames, size)
    assert found.dtype == np.uint8
    assert np.array_equal(found, trained)


@pytest.mark.parametrize("size", [37, 56, 96, 100, 223, 300])
def test_resized__any_other_size_is_a_level_off_at_most(frames: np.ndarray, size: int) -> None:
    grey = torch.from_numpy(frames)[:, None].float().div_(255)
    trained = resize(grey, size)[:, 0].mul_(255).round_().byte().numpy()
    off = np.abs(resized(frames, size).astype(int) - trained)
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


def test_resized__keeps_what_has_the_size(frames: np.ndarray) -> None:
    assert resized(frames, 224) is frames


@pytest.mark.parametrize("method", ["taylor", "soft_argmax", "argmax"])
def test_points_of__as_torch_decodes(method: str) -> None:
    rng = np.random.default_rng(1)
    points = torch.from_numpy(rng.uniform(-0.4, 19.4, (6, 4, 2)).astype(np.float32))  # edges among them
    maps = 0.7 * target_maps(points, (20, 24), 1.5) + 0.02 * torch.from_numpy(rng.normal(size=(6, 4, 24, 20))).float()
    maps[0, 0] = -1.0  # a network that says nothing
    maps[1, 1] = 0.0
    expected, heights = decode(maps, method)
    found, peaks = points_of(maps.numpy(), method)
    assert np.allclose(found, expected.numpy(), atol=1e-4)
    assert np.allclose(peaks, heights.numpy())
    assert found.dtype == peaks.dtype == np.float32


def test_points_of__finds_the_top_of_a_gaussian_between_cells() -> None:
    points = torch.tensor([[[7.3, 9.6], [12.0, 4.5]]])
    found, _ = points_of(target_maps(points, (20, 24), 1.5).numpy())
    assert np.allclose(found, points.numpy(), atol=1e-3)


def test_points_of__too_small_a_map() -> None:
    with pytest.raises(ValueError, match="3 × 3"):
        points_of(np.zeros((1, 1, 2, 9), dtype=np.float32))
