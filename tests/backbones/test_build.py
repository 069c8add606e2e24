import copy

import pytest
import safetensors.torch
import timm
import torch
from sonokit.backbones.build import build_backbone
from sonokit.errors import SonokitError


def rgb_features(model: torch.nn.Module, grey: torch.Tensor) -> torch.Tensor:
    """What a plain timm user would compute: frames repeated to RGB, normalised as the model's configuration says."""
    mean = torch.tensor(model.pretrained_cfg["mean"]).view(1, 3, 1, 1)
    std = torch.tensor(model.pretrained_cfg["std"]).view(1, 3, 1, 1)
    with torch.inference_mode():
        return model.eval()((grey.repeat(1, 3, 1, 1) - mean) / std)


def random_rgb_weights(name: str, file, **options) -> torch.nn.Module:
    torch.manual_seed(5)
    model = timm.create_model(name, num_classes=10, **options)
    for key, value in model.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_()
        elif key.endswith("running_var"):
            value.uniform_(0.5, 2)
    safetensors.torch.save_file(model.state_dict(), file)
    model.reset_classifier(0)
    return model


def test_build_backbone__imagenet_weights_in_grey_equal_rgb(shared_data):
    file = shared_data / "weights" / "tf_efficientnet_lite0.imagenet.safetensors"
    rgb = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    state = safetensors.torch.load_file(file)
    rgb.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier")})
    grey = build_backbone("tf_efficientnet_lite0", weights=file).eval()
    frames = torch.rand(2, 1, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(grey(frames), rgb_features(rgb, frames), rtol=1e-4, atol=1e-4)


def test_build_backbone__grey_vit_equals_rgb(tmp_path):
    rgb = random_rgb_weights("test_vit", tmp_path / "w.safetensors")
    rgb.pretrained_cfg = {**rgb.pretrained_cfg, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    grey = build_backbone("test_vit", weights=tmp_path / "w.safetensors").eval()
    frames = torch.rand(2, 1, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(grey(frames), rgb_features(rgb, frames), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "layers"), [("resnet18", ["conv1", "bn1"]), ("resnet18d", ["conv1.0", "conv1.1"])])
def test_build_backbone__grey_stem_equals_rgb_inside_with_unequal_channel_means(tmp_path, name, layers):
    rgb = random_rgb_weights(name, tmp_path / "w.safetensors").eval()
    grey = build_backbone(name, weights=tmp_path / "w.safetensors").eval()
    frames = torch.rand(2, 1, 64, 64)
    config = rgb.pretrained_cfg
    assert len(set(config["mean"])) == 3
    a = (frames.repeat(1, 3, 1, 1) - torch.tensor(config["mean"]).view(1, 3, 1, 1)) / torch.tensor(config["std"]).view(
        1, 3, 1, 1
    )
    b = (frames - grey.mean) / grey.std
    with torch.inference_mode():
        for layer in layers:
            a, b = rgb.get_submodule(layer)(a), grey.model.get_submodule(layer)(b)
    inside = (..., slice(2, -2), slice(2, -2))  # the border differs: zero padding means another grey level to the two
    torch.testing.assert_close(a[inside], b[inside], rtol=1e-4, atol=1e-4)


def test_build_backbone__grey_file_is_taken_as_it_is(tmp_path):
    first = build_backbone("test_resnet", seed=3)
    safetensors.torch.save_file(first.model.state_dict(), tmp_path / "grey.safetensors")
    second = build_backbone("test_resnet", weights=tmp_path / "grey.safetensors", seed=4)
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key])


def test_build_backbone__seed_decides_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, again, other = (build_backbone("test_resnet", seed=s) for s in (7, 7, 8))
    assert torch.equal(torch.rand(3), expected)
    weight = [b.model.state_dict()["layer1.0.conv1.weight"] for b in (one, again, other)]
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], weight[2])


def test_forward__frames_and_clips():
    backbone = build_backbone("test_resnet").eval()
    clip = torch.rand(2, 3, 1, 32, 32)
    with torch.inference_mode():
        features = backbone(clip)
        assert features.shape == (2, 3, backbone.num_features)
        torch.testing.assert_close(features[:, 1], backbone(clip[:, 1]), rtol=1e-5, atol=1e-5)
        assert backbone(clip[0, :1]).shape == (1, backbone.num_features)
    with pytest.raises(ValueError, match="expected"):
        backbone(torch.rand(2, 3, 32, 32))


def test_forward__num_features_is_the_length_with_a_head_of_its_own():
    backbone = build_backbone("mobilenetv3_small_050").eval()
    with torch.inference_mode():
        assert backbone(torch.rand(1, 1, 32, 32)).shape == (1, backbone.num_features)


def test_forward__vit_takes_other_sizes():
    with torch.inference_mode():
        assert build_backbone("test_vit").eval()(torch.rand(1, 1, 64, 64)).shape == (1, 64)


def test_build_backbone__deep_copy_is_independent():
    backbone = build_backbone("test_resnet", temporal_shift=0.125).eval()
    twin = copy.deepcopy(backbone)
    clip = torch.rand(1, 4, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(twin(clip), backbone(clip))
        for parameter in twin.parameters():
            parameter.zero_()
        assert not torch.equal(twin(clip), backbone(clip))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet81", {}, "resnet18"),
        ("resnet18.nope_in1k", {}, "a1_in1k"),
        ("test_resnet", {"weights": "nowhere.safetensors"}, "no weights file nowhere.safetensors"),
        ("test_resnet", {"in_chans": 2}, "in_chans"),
    ],
)
def test_build_backbone__faults(name, options, message):
    with pytest.raises(SonokitError, match=message):
        build_backbone(name, **options)


def test_build_backbone__weights_that_do_not_fit_are_told_in_one_line(tmp_path):
    file = tmp_path / "other.safetensors"
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    state["surplus"] = torch.zeros(1)
    safetensors.torch.save_file(state, file)
    with pytest.raises(SonokitError) as fault:
        build_backbone("test_resnet", weights=file)
    message = str(fault.value)
    assert "surplus unexpected" in message
    assert "[1, 2, 3, 3] in the file" in message
    assert "\n" not in message


def test_build_backbone__a_pickle_is_refused(tmp_path):
    file = tmp_path / "model.pt"
    torch.save({"x": torch.zeros(1)}, file)
    with pytest.raises(SonokitError, match="safetensors"):
        build_backbone("test_resnet", weights=file)


def test_build_backbone__timm_weights_without_network(monkeypatch):
    def create_model(*args, pretrained=False, **kwargs):
        raise FileNotFoundError("cannot find the requested files")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(SonokitError, match="local file"):
        build_backbone("resnet18", weights="timm")
