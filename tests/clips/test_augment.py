import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sonokit.clips import augment_rows
from sonokit.clips.augment import (
    OPERATIONS,
    Operations,
    ReferenceAugment,
    ResizeOnly,
    UltrasoundAugment,
    augment_named,
    crop_and_flip,
    gaussian_blur,
    resize,
)
from sonokit.clips.augment_rows import linear_taps, mix_rows, scaling_taps
from sonokit.errors import SonokitError

ALL = Operations(shadows=1)
RECIPES = [ReferenceAugment(24), UltrasoundAugment(24), UltrasoundAugment(24, 2.0, ALL)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("augment", RECIPES)
def test_augment__generator_decides_and_nothing_else(augment):
    frames = torch.rand(5, 1, 32, 32)
    torch.manual_seed(1)
    first = augment(frames, seeded(3))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = augment(frames, seeded(3))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, augment(frames, seeded(4)))


@pytest.mark.parametrize("augment", [*RECIPES, ResizeOnly(24)])
def test_augment__bytes_and_clips_are_frames(augment):
    clips = torch.randint(0, 256, (3, 2, 1, 32, 32), dtype=torch.uint8, generator=seeded(0))
    kept = clips.clone()
    expected = augment(clips.flatten(0, 1).float() / 255, seeded(3))
    out = augment(clips, seeded(3))
    assert out.shape == (3, 2, 1, 24, 24)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.flatten(0, 1), expected, rtol=0, atol=1e-6)
    assert torch.equal(clips, kept)


@pytest.mark.parametrize("augment", [*RECIPES, ResizeOnly(24)])
def test_augment__input_is_left_alone(augment):
    for side in (24, 32):
        frames = torch.rand(3, 1, side, side)
        kept = frames.clone()
        augment(frames, seeded(0))
        assert torch.equal(frames, kept)


@pytest.mark.parametrize("augment", RECIPES)
def test_augment__same_in_chunks_of_any_size(augment, monkeypatch):
    frames = torch.rand(7, 1, 32, 32)
    whole = augment(frames, seeded(3))
    for pixels in (1, 24 * 24 * 3):
        monkeypatch.setattr(augment_rows, "_CHUNK_PIXELS", pixels)
        torch.testing.assert_close(augment(frames, seeded(3)), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("augment", RECIPES)
def test_augment__frames_do_not_depend_on_each_other(augment):
    frames = torch.rand(5, 1, 32, 32)
    changed = frames.clone()
    changed[[0, 1, 3, 4]] = torch.rand(4, 1, 32, 32)
    torch.testing.assert_close(augment(frames, seeded(3))[2], augment(changed, seeded(3))[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("augment", RECIPES)
def test_augment__frames_have_parameters_of_their_own(augment):
    out = augment(torch.rand(1, 1, 32, 32).repeat(4, 1, 1, 1), seeded(3))
    assert len({tuple(frame.flatten().tolist()) for frame in out}) == 4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), recipe=st.sampled_from(RECIPES), side=st.sampled_from([9, 24, 61]), level=st.floats(0, 1))
def test_augment__range_and_shape(seed, recipe, side, level):
    frames = (torch.rand(3, 1, side, side, generator=seeded(seed)) > level).float()
    out = recipe(frames, seeded(seed))
    assert out.shape == (3, 1, 24, 24)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1


def test_ultrasound__strength_0_is_the_identity():
    frames = torch.rand(3, 1, 24, 24)
    assert torch.equal(UltrasoundAugment(24, strength=0.0)(frames, seeded(0)), frames)
    close = UltrasoundAugment(24, strength=1e-6)(frames, seeded(0))
    torch.testing.assert_close(close, frames, rtol=0, atol=1e-3)


def test_ultrasound__stronger_changes_more():
    frames = torch.rand(16, 1, 24, 24)
    changes = [(UltrasoundAugment(24, s)(frames, seeded(0)) - frames).abs().mean() for s in (0.1, 0.5, 1.0)]
    assert changes[0] < changes[1] < changes[2]


def test_ultrasound__black_stays_black():
    assert not UltrasoundAugment(24, 2.0, ALL)(torch.zeros(8, 1, 24, 24), seeded(0)).any()


def test_ultrasound__shadows_only_darken():
    frames = torch.rand(32, 1, 24, 24)
    plain, shadowed = (UltrasoundAugment(24, operations=Operations(shadows=s))(frames, seeded(0)) for s in (0, 1))
    assert (shadowed <= plain + 1e-6).all()
    assert 0 < ((plain - shadowed).amax(dim=(1, 2, 3)) > 0.05).float().mean() < 1


def alone(name: str, frames: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    out = UltrasoundAugment(frames.shape[-1], strength, Operations.only(name))(frames, seeded(0))
    assert (out - frames).abs().max() > 0.01  # else the test would see nothing
    return out


def test_operations__flip_mirrors_and_no_more():
    frames = torch.rand(40, 1, 16, 16)
    out = alone("flip", frames)
    as_is, mirrored = ((out - other).abs().amax(dim=(1, 2, 3)) < 1e-4 for other in (frames, frames.flip(-1)))
    assert (as_is ^ mirrored).all()
    assert 8 < mirrored.sum() < 32


def test_operations__gain_is_one_factor_a_row():
    frames = torch.rand(10, 1, 16, 16) / 4 + 0.1  # × e at most: nothing is clipped
    factor = alone("gain", frames) / frames
    torch.testing.assert_close(factor, factor[..., :1].expand_as(factor), rtol=1e-3, atol=0)


def test_operations__gamma_and_contrast_map_grey_levels_in_order():
    ramp = torch.linspace(0, 1, 256).view(1, 1, 16, 16).repeat(10, 1, 1, 1)
    for name, fixed in (("gamma", (0, 255)), ("contrast", (0, 255))):
        out = alone(name, ramp, 1.2).flatten(1)
        assert (out.diff(dim=1) >= -1e-5).all()
        for place in fixed:
            torch.testing.assert_close(out[:, place], ramp.flatten(1)[:, place], rtol=0, atol=1e-4)
    middle = torch.full((10, 1, 16, 16), 0.5)
    untouched = UltrasoundAugment(16, 1.0, Operations.only("contrast"))(middle, seeded(0))
    torch.testing.assert_close(untouched, middle, rtol=0, atol=1e-5)


def test_operations__gamma_is_a_power():
    frames = torch.rand(6, 1, 16, 16) * 0.9 + 0.05
    power = alone("gamma", frames).log() / frames.log()
    torch.testing.assert_close(power, power[:, :, :1, :1].expand_as(power), rtol=1e-2, atol=0)
    assert ((power > 0.67 - 0.01) & (power < 1.5)).all()  # e^±0.4


def test_operations__speckle_and_blur_keep_the_mean():
    flat = torch.full((20, 1, 64, 64), 0.4)
    assert abs(float(alone("speckle", flat).mean()) - 0.4) < 0.01
    noisy = torch.rand(20, 1, 64, 64)
    blurred = alone("blur", noisy, 2.0)
    torch.testing.assert_close(blurred.mean(dim=(1, 2, 3)), noisy.mean(dim=(1, 2, 3)), rtol=0, atol=0.01)
    assert blurred.std() < noisy.std()
    torch.testing.assert_close(UltrasoundAugment(64, 2.0, Operations.only("blur"))(flat, seeded(0)), flat, rtol=0, atol=1e-5)


def test_operations__one_off_leaves_the_draws_of_the_others():
    frames = torch.full((20, 1, 64, 64), 0.4)  # flat, so that crop, flip and blur have nothing to change
    everything = {name: 1.0 for name in OPERATIONS if name not in ("speckle", "shadows")}
    for off in ("crop", "flip", "blur"):
        some = UltrasoundAugment(64, 1.0, Operations(**{**everything, off: 0.0}, speckle=0.0))(frames, seeded(5))
        every = UltrasoundAugment(64, 1.0, Operations(**everything, speckle=0.0))(frames, seeded(5))
        # blur smoothes the gain's slope over depth by a hair
        torch.testing.assert_close(some, every, rtol=0, atol=2e-3)


def test_operations__scale_and_strength_multiply():
    frames = torch.rand(4, 1, 24, 24)
    half = Operations(**dict.fromkeys(OPERATIONS, 0.5))
    torch.testing.assert_close(
        UltrasoundAugment(24, 1.0, half)(frames, seeded(1)),
        UltrasoundAugment(24, 0.5, Operations(shadows=1))(frames, seeded(1)),
    )


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_operations__nonsense_is_refused(bad):
    with pytest.raises(SonokitError, match="augmentation blur must be 0"):
        Operations(blur=bad)


def test_mix_rows__equals_matrices():
    frames, rows = torch.rand(3, 7, 5), 7
    taps = linear_taps(torch.rand(3, 11) * 9 - 1, rows)
    matrix = torch.zeros(3, 11, rows).scatter_add_(2, taps.index, taps.weight)
    torch.testing.assert_close(mix_rows(frames, taps), matrix @ frames)
    torch.testing.assert_close(matrix.sum(dim=2), torch.ones(3, 11))


def test_scaling_taps__equal_interpolate():
    frames = torch.rand(2, 1, 7, 5)
    expected = F.interpolate(frames, size=(19, 5), mode="bilinear", align_corners=False).squeeze(1)
    torch.testing.assert_close(mix_rows(frames.squeeze(1), scaling_taps(2, 7, 19, frames.device)), expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(3, 30), width=st.integers(3, 30))
def test_crop_and_flip__equals_grid_sample(seed, height, width):
    n, size, rng = 4, 31, seeded(seed)
    frames = torch.rand(n, 1, height, width, generator=rng)
    part, centre = torch.rand(2, n, generator=rng) * 0.9 + 0.1, torch.rand(2, n, generator=rng)
    flip = torch.rand(n, generator=rng) < 0.5
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = torch.where(flip, -part[0], part[0]), 2 * centre[0] - 1
    theta[:, 1, 1], theta[:, 1, 2] = part[1], 2 * centre[1] - 1
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    expected = F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
    box = tuple(values.view(n, 1, 1) for values in (*part, *centre))
    torch.testing.assert_close(crop_and_flip(frames, size, box, flip.view(n, 1, 1)), expected, rtol=0, atol=2e-5)


def test_crop_and_flip__equals_slicing():
    frames = torch.rand(2, 1, 8, 8)
    part = torch.full((2, 1, 1), 0.5)
    box = (part, part, torch.tensor([0.25, 0.75]).view(2, 1, 1), torch.tensor([0.75, 0.25]).view(2, 1, 1))
    out = crop_and_flip(frames, 4, (2 * part, 2 * part, part, part), torch.zeros(2, 1, 1, dtype=torch.bool))
    torch.testing.assert_close(out, resize(frames, 4))
    out = crop_and_flip(frames, 8, (2 * part, 2 * part, part, part), torch.tensor([False, True]).view(2, 1, 1))
    torch.testing.assert_close(out, torch.stack([frames[0], frames[1].flip(-1)]))
    # a box of half the side, doubled: averaging 2 × 2 gives the slice back only for frames that are flat in 2 × 2 blocks
    blocks = torch.rand(2, 1, 2, 2).repeat_interleave(4, -1).repeat_interleave(4, -2)
    out = crop_and_flip(blocks, 8, box, torch.zeros(2, 1, 1, dtype=torch.bool))
    torch.testing.assert_close(out[:, :, 2:6, 2:6], torch.stack([blocks[0, :, 4:, :4], blocks[1, :, :4, 4:]]))


def test_gaussian_blur__equals_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    frames = torch.rand(3, 1, 20, 17)
    sigma = torch.tensor([0.0, 0.7, 1.3]).view(3, 1, 1)
    out = gaussian_blur(frames, sigma, 6)
    torch.testing.assert_close(out[0], frames[0])
    for i in (1, 2):
        expected = ndimage.gaussian_filter(frames[i, 0].double().numpy(), float(sigma[i]), mode="mirror", radius=6)
        torch.testing.assert_close(out[i, 0], torch.from_numpy(expected).float(), rtol=0, atol=1e-5)


def test_reference__mirrors_half():
    # the direction of a ramp tells whether it was mirrored
    ramp = torch.linspace(0.4, 0.6, 64).expand(400, 1, 64, 64).contiguous()
    out = ReferenceAugment(64)(ramp, seeded(0))
    flipped = (out[:, 0, 32, -8] < out[:, 0, 32, 8]).float().mean()
    assert 0.4 < flipped < 0.6


def test_augment_named__all_and_unknown():
    for name in ("ultrasound", "reference", "none"):
        assert augment_named(name, 16)(torch.rand(2, 1, 20, 20), seeded(0)).shape == (2, 1, 16, 16)
    with pytest.raises(SonokitError, match="ultrasound, reference, none"):
        augment_named("strong", 16)
    for size, strength in ((0, 1.0), (16, -1.0), (16, float("nan"))):
        with pytest.raises(SonokitError, match=f"not {size} and {strength}"):
            augment_named("ultrasound", size, strength)
