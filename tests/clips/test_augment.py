import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sonokit.clips.augment import ReferenceAugment, UltrasoundAugment, augment_named, crop_and_flip, gaussian_blur, resize
from sonokit.errors import SonokitError

RECIPES = [ReferenceAugment(24), UltrasoundAugment(24), UltrasoundAugment(24, 2.0, shadows=True)]


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
    assert not UltrasoundAugment(24, 2.0, shadows=True)(torch.zeros(8, 1, 24, 24), seeded(0)).any()


def test_ultrasound__shadows_only_darken():
    frames = torch.rand(32, 1, 24, 24)
    plain, shadowed = (UltrasoundAugment(24, shadows=s)(frames, seeded(0)) for s in (False, True))
    assert (shadowed <= plain + 1e-6).all()
    assert 0 < ((plain - shadowed).amax(dim=(1, 2, 3)) > 0.05).float().mean() < 1


def test_crop_and_flip__equals_slicing():
    frames = torch.rand(2, 1, 8, 8)
    part = torch.full((2, 1, 1, 1), 0.5)
    box = (part, part, torch.tensor([0.25, 0.75]).view(2, 1, 1, 1), torch.tensor([0.75, 0.25]).view(2, 1, 1, 1))
    out = crop_and_flip(frames, 4, (2 * part, 2 * part, part, part), torch.zeros(2, 1, 1, 1, dtype=torch.bool))
    torch.testing.assert_close(out, resize(frames, 4))
    out = crop_and_flip(frames, 8, (2 * part, 2 * part, part, part), torch.tensor([False, True]).view(2, 1, 1, 1))
    torch.testing.assert_close(out, torch.stack([frames[0], frames[1].flip(-1)]))
    # a box of half the side, doubled: averaging 2 × 2 gives the slice back only for frames that are flat in 2 × 2 blocks
    blocks = torch.rand(2, 1, 2, 2).repeat_interleave(4, -1).repeat_interleave(4, -2)
    out = crop_and_flip(blocks, 8, box, torch.zeros(2, 1, 1, 1, dtype=torch.bool))
    torch.testing.assert_close(out[:, :, 2:6, 2:6], torch.stack([blocks[0, :, 4:, :4], blocks[1, :, :4, 4:]]))


def test_gaussian_blur__equals_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    frames = torch.rand(3, 1, 20, 20)
    sigma = torch.tensor([0.0, 0.7, 1.3]).view(3, 1, 1, 1)
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
