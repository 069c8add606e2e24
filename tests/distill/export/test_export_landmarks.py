from pathlib import Path

import numpy as np
import pytest
import torch
from sonokit.distill.export.choice import Limits
from sonokit.distill.export.export import export_model
from sonokit.distill.export.run import ExportedModel
from sonokit.distill.export.sources import open_source
from sonokit.distill.landmarks.folder import LandmarkModel, predict_landmarks, save_landmark_model
from sonokit.distill.landmarks.network import LandmarkNetwork
from sonokit.distill.students.build import build_student
from sonokit.errors import SonokitError
from torch import nn


def test_export_model__landmarks_in_pixels_of_images_of_any_size(tmp_path: Path) -> None:
    network = LandmarkNetwork(build_student("micro-10k"), ("left", "right"), widths=8)
    nn.init.normal_(network.predict.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.train()
        for _ in range(10):
            network(torch.rand(4, 1, 48, 64))
    save_landmark_model(LandmarkModel(network.eval(), (64, 48)), tmp_path / "model")
    source = open_source(tmp_path / "model")
    rng = np.random.default_rng(0)
    placed = [rng.integers(0, 256, (1, 48, 64)).astype(np.uint8) for _ in range(4)]
    note = export_model(source, placed[:2], placed[2:], tmp_path / "export", forms="fp32", limits=Limits(rounds=1))
    assert note["unit"] == "pixels"
    assert note["difference"] < 0.01
    images = {"wide": rng.integers(0, 256, (60, 130)).astype(np.uint8), "high": rng.integers(0, 256, (90, 70)).astype(np.uint8)}
    expected = predict_landmarks(LandmarkModel(network, (64, 48)), images)
    exported = ExportedModel(tmp_path / "export")
    points, peaks = exported.landmarks(list(images.values()))
    assert points.shape == (2, 2, 2)
    assert peaks.shape == (2, 2)
    assert np.isfinite(points).any()
    assert np.allclose(points, expected.points, atol=0.02, equal_nan=True)
    with pytest.raises(SonokitError, match="not to a clip"):
        exported.predict_frames(placed[0])
