import pytest
import torch
from sonokit.backbones.build import build_backbone


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "test_convnext", "tf_efficientnet_lite0", "test_mambaout"]
)
def test_forward_maps__features_are_those_of_forward_and_maps_as_announced(name):
    backbone = build_backbone(name).eval()
    frames = torch.rand(2, 1, 64, 96)
    with torch.inference_mode():
        features, maps = backbone.forward_maps(frames, (4, 8, 16))
        assert torch.equal(features, backbone(frames))
    channels = backbone.map_channels
    assert [tuple(m.shape) for m in maps] == [(2, channels[s], 64 // s, 96 // s) for s in (4, 8, 16)]


def test_forward_maps__maps_are_the_layers_outputs():
    backbone = build_backbone("test_resnet").eval()
    seen = {}
    for name in ("layer1", "layer3"):
        backbone.model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    frames = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        _, maps = backbone.forward_maps(frames, (4, 16))
        torch.testing.assert_close(maps[0], seen["layer1"])
        torch.testing.assert_close(maps[1], seen["layer3"])


def test_forward_maps__a_vit_has_one_stride():
    assert list(build_backbone("test_vit").map_channels) == [16]
