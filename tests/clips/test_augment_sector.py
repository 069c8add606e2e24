import numpy as np
import pytest
import torch
from sonokit.clips.augment import ReferenceAugment, SectorOnly, augment_named, mask_outside_sector
from sonokit.clips.augment_sector import sector_mask
from sonokit.clips.decode import read_clip
from sonokit.clips.letterbox import letterbox
from sonokit.clips.manifest import read_manifest


def fan(size: int) -> np.ndarray:
    """Where a convex probe's sector lies: 24° to either side, between two arcs; bool [size, size]."""
    y, x = np.mgrid[:size, :size] / size
    depth, angle = np.hypot(x - 0.5, y + 0.1), np.arctan2(x - 0.5, y + 0.1)
    return (abs(angle) < np.radians(24)) & (depth > 0.2) & (depth < 0.95)


def text(size: int) -> np.ndarray:
    """Strokes of two pixels in the upper corners and a ruler at the right edge; bool [size, size]."""
    ink = np.zeros((size, size), dtype=bool)
    for line in range(3):
        row = 4 + line * size // 16
        ink[row : row + size // 28, 4 : size // 5 : 4] = True
        ink[row : row + 2, 4 : size // 5] = True
    ink[:: size // 12, -size // 40 :] = True
    return ink


def logo(size: int) -> np.ndarray:
    """A solid block, larger than letters, below on the left; bool [size, size]."""
    block = np.zeros((size, size), dtype=bool)
    block[-size // 6 : -4, 4 : size // 6] = True
    return block


def clip(size: int = 224, seed: int = 0, frames: int = 3, noise: float = 4) -> np.ndarray:
    """Speckle that changes from frame to frame in the fan, static overlays, noisy black elsewhere; uint8 [K, S, S]."""
    rng = np.random.default_rng(seed)
    grey = rng.uniform(0, noise, (frames, size, size))
    grey[:, fan(size)] = rng.gamma(2, 30, (frames, int(fan(size).sum())))
    grey[:, text(size) | logo(size)] = 200
    return grey.clip(0, 255).astype(np.uint8)


def batch(*clips: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(clips)).unsqueeze(2)  # [B, K, 1, S, S]


@pytest.mark.parametrize("size", [96, 112, 224, 250])
def test_sector_mask__keeps_the_fan_and_no_overlay(size):
    mask = sector_mask(batch(clip(size)))[0].numpy()
    assert mask.shape == (size, size)
    assert mask[fan(size)].mean() > 0.995
    assert not mask[text(size) & ~fan(size)].any()
    assert not mask[logo(size)].any()


def test_sector_mask__outline_is_not_much_larger_than_the_fan():
    mask = sector_mask(batch(clip()))[0].numpy()
    assert mask.sum() < 1.25 * fan(224).sum()


def test_sector_mask__dark_lung_inside_the_fan_stays():
    grey = clip()
    grey[:, 90:130, 90:130] = 0
    grey[:, 108:112, 108:112] = 250  # a bright speck within
    mask = sector_mask(batch(grey))[0].numpy()
    assert mask[90:130, 90:130].all()


def test_mask_outside_sector__black_outside_untouched_inside():
    clips = batch(clip())
    out = mask_outside_sector(clips)
    mask = sector_mask(clips)[0]
    assert out.dtype == torch.uint8
    assert torch.equal(out[0, :, 0, mask], clips[0, :, 0, mask])
    assert not out[0, :, 0, ~mask].any()
    assert clips[0, 0, 0, 4, 4] == 200  # the input keeps its text


def test_mask_outside_sector__float_as_bytes():
    clips = batch(clip(112))
    torch.testing.assert_close(mask_outside_sector(clips.float() / 255), mask_outside_sector(clips).float() / 255)


def test_sector_mask__clips_do_not_depend_on_each_other():
    clips = [clip(96, seed) for seed in range(2)] + [np.zeros((3, 96, 96), np.uint8)]
    together = sector_mask(batch(*clips))
    for i, each in enumerate(clips):
        assert torch.equal(sector_mask(batch(each))[0], together[i])


@pytest.mark.parametrize("level", [0, 3, 120])
def test_sector_mask__nothing_found_keeps_everything(level):
    assert sector_mask(batch(np.full((3, 64, 64), level, np.uint8))).all()


def test_sector_mask__frozen_clip_loses_letters_only():
    grey = clip(frames=1).repeat(3, axis=0)
    mask = sector_mask(batch(grey))[0].numpy()
    assert mask[fan(224)].mean() > 0.995
    assert mask[logo(224)].any()  # nothing moves, so that solid things cannot be told apart
    assert not mask[:30, :40].any()


def test_sector_only__masks_before_any_recipe():
    clips = batch(clip(96), clip(96, 1))
    recipe = ReferenceAugment(64)
    expected = recipe(mask_outside_sector(clips), torch.Generator().manual_seed(2))
    assert torch.equal(SectorOnly(recipe)(clips, torch.Generator().manual_seed(2)), expected)
    bare = augment_named("none", 96, mask_sector=True)(clips.flatten(0, 1), torch.Generator())
    assert bare.shape == (6, 1, 96, 96)
    assert not bare[:, 0, :20, :10].any()


@pytest.mark.data
def test_sector_mask__real_clips_lose_next_to_nothing(shared_data):
    manifest = read_manifest(shared_data / "pocus" / "manifest.csv", check_files=False)
    for row in range(3, len(manifest), 16):  # cropped by their publishers: no text beside the sector
        frames = read_clip(manifest.locate(row), lambda count, _: np.linspace(0, count - 1, 3).astype(int)).frames
        grey = np.stack([letterbox(frame, 224) for frame in frames])
        kept = mask_outside_sector(batch(grey)).sum().item()
        assert kept > 0.95 * grey.sum(dtype=np.int64)
