import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sonokit.distill.landmarks.folder import LandmarkModel, load_landmark_model, predict_landmarks, save_landmark_model
from sonokit.distill.landmarks.network import LandmarkNetwork
from sonokit.distill.students.build import build_student
from sonokit.errors import SonokitError


@pytest.fixture
def model() -> LandmarkModel:
    network = LandmarkNetwork(build_student("micro-10k"), ("apex", "base"), stride=4, widths={4: 8, 8: 12, 16: 16})
    with torch.no_grad():
        for parameter in network.predict.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    return LandmarkModel(network.eval(), (48, 40), 2.0, "taylor", {"training_images": {"a.png": "0123"}})


def _images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"one.png": rng.integers(0, 255, (50, 70), np.uint8), "two.png": rng.integers(0, 255, (80, 33), np.uint8)}


def test_folder__round_trip_gives_the_same_points(model: LandmarkModel, tmp_path: Path) -> None:
    save_landmark_model(model, tmp_path / "m")
    again = load_landmark_model(tmp_path / "m")
    assert (again.size, again.sigma, again.decoding) == ((48, 40), 2.0, "taylor")
    assert (again.names, again.provenance) == (("apex", "base"), {"training_images": {"a.png": "0123"}})
    assert not again.network.training
    spacing = np.array([[0.5, 0.4], [0.3, 0.3]])
    before, after = (predict_landmarks(one, _images(), spacing=spacing) for one in (model, again))
    np.testing.assert_array_equal(before.points, after.points)
    assert after.images == ("one.png", "two.png")
    np.testing.assert_array_equal(after.sizes, [[70, 50], [33, 80]])
    np.testing.assert_array_equal(after.spacing, spacing)


def test_folder__holds_the_network_and_nothing_of_its_training(model: LandmarkModel, tmp_path: Path) -> None:
    save_landmark_model(model, tmp_path)
    own = load_file(tmp_path / "decoder.safetensors")
    theirs = load_file(tmp_path / "backbone" / "model.safetensors")
    assert {name.split(".")[0] for name in own} == {"decoder", "predict"}
    stored = sum(v.numel() for n, v in {**own, **theirs}.items() if "running_" not in n and "num_batches" not in n)
    assert stored == sum(p.numel() for p in model.network.parameters())
    assert json.loads((tmp_path / "landmarks.json").read_text())["parameters"] == stored


def test_folder__refuses_what_is_incomplete_or_exchanged(model: LandmarkModel, tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match="no landmark model"):
        load_landmark_model(tmp_path)
    save_landmark_model(model, tmp_path)
    state = load_file(tmp_path / "decoder.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, tmp_path / "decoder.safetensors")
    with pytest.raises(SonokitError, match="not those that"):
        load_landmark_model(tmp_path)
    (tmp_path / "decoder.safetensors").write_bytes(b"nothing")
    with pytest.raises(SonokitError, match="cannot be read"):
        load_landmark_model(tmp_path)


def test_predict_landmarks__leaves_out_what_hardly_rises(model: LandmarkModel) -> None:
    kept = predict_landmarks(model, _images())
    assert kept.present.all()
    assert not predict_landmarks(model, _images(), least_peak=1e9).present.any()
