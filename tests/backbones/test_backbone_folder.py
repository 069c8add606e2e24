import json

import pytest
import safetensors.torch
import timm
import torch
from sonokit.backbones import folder as folder_module
from sonokit.backbones.build import build_backbone
from sonokit.backbones.folder import backbone_fingerprint, load_backbone, open_backbone, read_provenance, save_backbone
from sonokit.errors import SonokitError
from timm.models import save_for_hf

PROVENANCE = {
    "fitted_on_labels": True,
    "labels": ["diagnosis"],
    "training_clips": {"a/1": "00ff"},
    "training_patients": ["p1"],
    "method": "USCL",
}


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 32), ("test_vit", 64), ("tf_efficientnet_lite0", 32)])
def test_save_backbone__plain_timm_opens_it(tmp_path, name, size):
    backbone = build_backbone(name, seed=2).eval()
    save_backbone(backbone, tmp_path / "b", provenance={})
    plain = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True).eval()
    config = plain.pretrained_cfg
    assert plain.num_classes == 0
    assert config["input_size"][0] == 1
    frames = torch.rand(2, 1, size, size)
    with torch.inference_mode():
        normalised = (frames - torch.tensor(config["mean"])) / torch.tensor(config["std"])
        assert torch.equal(plain(normalised), backbone(frames))


@pytest.mark.parametrize("shift", [0.0, 0.125])
def test_load_backbone__round_trip(tmp_path, shift):
    backbone = build_backbone("test_resnet", seed=2, temporal_shift=shift).eval()
    save_backbone(backbone, tmp_path, provenance=PROVENANCE)
    loaded = load_backbone(tmp_path)
    clip = torch.rand(1, 3, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(clip), backbone(clip))
    assert (loaded.name, loaded.temporal_shift, loaded.in_chans) == (backbone.name, shift, 1)
    assert backbone_fingerprint(loaded) == backbone_fingerprint(backbone)
    assert read_provenance(tmp_path) == PROVENANCE
    card = (tmp_path / "README.md").read_text()
    assert "diagnosis" in card
    assert "USCL" in card
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors", "sonokit.json"]


def test_save_backbone__killed_midway_leaves_no_half_backbone(tmp_path, monkeypatch):
    save_backbone(build_backbone("test_resnet", seed=1), tmp_path, provenance={})
    replaced = []

    def replace(source, target):
        if str(target).endswith("sonokit.json"):
            raise KeyboardInterrupt
        replaced.append(target)
        source.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            save_backbone(build_backbone("test_resnet", seed=2), tmp_path, provenance={})
    assert replaced
    with pytest.raises(SonokitError, match=r"config\.json is missing"):
        load_backbone(tmp_path)


def test_load_backbone__replaced_weights_are_noticed(tmp_path):
    save_backbone(build_backbone("test_resnet", seed=1), tmp_path, provenance={})
    safetensors.torch.save_file(build_backbone("test_resnet", seed=2).model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(SonokitError, match="not those that sonokit"):
        load_backbone(tmp_path)


def test_load_backbone__damaged_record(tmp_path):
    save_backbone(build_backbone("test_resnet"), tmp_path, provenance={})
    for content in ("", '{"schema": 1', '{"schema": 1}', "[]", "{}"):
        (tmp_path / "sonokit.json").write_text(content)
        with pytest.raises(SonokitError, match=r"sonokit\.json is damaged"):
            load_backbone(tmp_path)


def test_load_backbone__newer_schema(tmp_path):
    save_backbone(build_backbone("test_resnet"), tmp_path, provenance={})
    (tmp_path / "sonokit.json").write_text(json.dumps({"schema": 2}))
    with pytest.raises(SonokitError, match="written by a newer"):
        load_backbone(tmp_path)


def test_backbone_fingerprint__any_change_changes_it():
    backbone = build_backbone("test_resnet", seed=1)
    prints = {backbone_fingerprint(backbone), backbone_fingerprint(build_backbone("test_resnet", seed=1, temporal_shift=0.125))}
    backbone.mean += 0.25
    prints.add(backbone_fingerprint(backbone))
    next(backbone.model.parameters()).data.view(-1)[0] += 1
    prints.add(backbone_fingerprint(backbone))
    assert len(prints) == 4
    assert all(len(p) == 16 for p in prints)


def test_open_backbone__folder_of_plain_timm_in_rgb_becomes_grey(tmp_path):
    torch.manual_seed(0)
    rgb = timm.create_model("test_resnet", num_classes=5).eval()  # mean .5, std .5: the fold is exact
    save_for_hf(rgb, tmp_path, safe_serialization=True)
    grey = open_backbone(str(tmp_path)).eval()
    rgb.reset_classifier(0)
    frames = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(grey(frames), rgb((frames.repeat(1, 3, 1, 1) - 0.5) / 0.5), rtol=1e-4, atol=1e-5)
    assert read_provenance(tmp_path)["fitted_on_labels"] is False


def test_open_backbone__name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_resnet").mkdir()  # some folder of that name is no backbone
    assert open_backbone("test_resnet", seed=3).name == "test_resnet"


@pytest.mark.parametrize("spec", ["no/such/folder", "empty"])
def test_open_backbone__faults(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SonokitError, match="no backbone folder"):
        open_backbone(spec)


def test_open_backbone__weights_beside_a_folder(tmp_path):
    save_backbone(build_backbone("test_resnet"), tmp_path, provenance={})
    with pytest.raises(SonokitError, match="of its own"):
        open_backbone(str(tmp_path), weights="timm")
