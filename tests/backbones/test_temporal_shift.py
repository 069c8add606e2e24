import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sonokit.backbones.build import build_backbone
from sonokit.backbones.temporal_shift import shift_in_time
from sonokit.errors import SonokitError


def brute_force(x: np.ndarray, moved: int) -> np.ndarray:
    """x: [B, T, C]."""
    out = np.zeros_like(x)
    clips, frames, channels = x.shape
    for b in range(clips):
        for t in range(frames):
            for c in range(channels):
                source = t + 1 if c < moved else t - 1 if c < 2 * moved else t
                if 0 <= source < frames:
                    out[b, t, c] = x[b, source, c]
    return out


@settings(max_examples=25, deadline=None)
@given(
    clips=st.integers(1, 3), frames=st.integers(1, 5), channels=st.integers(1, 17), fraction=st.sampled_from([0.125, 0.25, 0.5])
)
def test_shift_in_time__equals_brute_force(clips, frames, channels, fraction):
    x = torch.randn(clips * frames, channels, 2, 1)
    expected = brute_force(x[:, :, 1, 0].reshape(clips, frames, channels).numpy(), int(channels * fraction))
    out = shift_in_time(x, frames, fraction)
    assert out.shape == x.shape
    np.testing.assert_array_equal(out[:, :, 1, 0].reshape(clips, frames, channels).numpy(), expected)


def test_shift_in_time__one_frame_keeps_all_but_the_moved_channels():
    x = torch.randn(2, 8, 3, 3)
    out = shift_in_time(x, 1, 0.125)
    assert torch.equal(out[:, 2:], x[:, 2:])
    assert not out[:, :2].any()


def awake(backbone):
    """Scales of 1 everywhere: timm starts a ResNet with residual branches that give zero."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    return backbone.eval()


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_backbone__shift_acts_on_clips_only_and_keeps_timms_keys(name):
    plain, shifted = awake(build_backbone(name)), awake(build_backbone(name, temporal_shift=0.125))
    assert list(plain.model.state_dict()) == list(shifted.model.state_dict())
    clip = torch.rand(2, 4, 1, 48, 48)
    with torch.inference_mode():
        assert torch.equal(plain(clip[:, 0]), shifted(clip[:, 0]))
        assert not torch.allclose(plain(clip), shifted(clip))
        assert torch.equal(shifted(clip)[:1], shifted(clip[:1])) or torch.allclose(
            shifted(clip)[:1], shifted(clip[:1]), atol=1e-5
        )


def test_backbone__information_reaches_the_neighbour_frames_only_within_the_clip():
    backbone = awake(build_backbone("test_resnet", temporal_shift=0.25))
    clips = torch.rand(2, 3, 1, 32, 32)
    changed = clips.clone()
    changed[0, 1] = 1 - changed[0, 1]
    with torch.inference_mode():
        difference = (backbone(changed) - backbone(clips)).abs().amax(dim=2)
    assert (difference[0] > 1e-4).all()
    assert (difference[1] < 1e-5).all()


@pytest.mark.parametrize(
    ("name", "fraction", "message"), [("test_vit", 0.125, "ResNet and EfficientNet"), ("test_resnet", 0.6, "0.5")]
)
def test_backbone__faults(name, fraction, message):
    with pytest.raises(SonokitError, match=message):
        build_backbone(name, temporal_shift=fraction)
