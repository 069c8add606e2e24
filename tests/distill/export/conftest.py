"""Clips that need no file, and a student whose answers differ from frame to frame."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sonokit.distill.students.build import build_student
from sonokit.distill.students.folder import StudentNote, save_student
from sonokit.distill.training.learners import Classifier
from torch import nn

CLASSES = ("bacterial_pneumonia", "covid19", "normal")


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A micro network that looks at 48 pixels of frames letterboxed to 64, with statistics as of training."""
    classifier = Classifier(build_student("micro-10k"), CLASSES)
    with torch.no_grad():
        classifier.train()
        for _ in range(20):
            classifier.backbone(torch.rand(8, 1, 48, 48) * torch.rand(8, 1, 1, 1))
        classifier.normalise(torch.randn(64, 64))
        nn.init.normal_(classifier.classify.weight, std=0.4, generator=torch.Generator().manual_seed(1))
    note = StudentNote("classes", CLASSES, "diagnosis", 48, {"frames": 5, "rate_hz": None}, 64)
    folder = tmp_path_factory.mktemp("student") / "student"
    save_student(classifier.eval(), folder, note)
    return folder


@pytest.fixture(scope="session")
def clips() -> list[np.ndarray]:
    """Letterboxed frames of twelve clips."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(12):
        ramp = np.linspace(*rng.uniform(0, 200, 2), 64)[None, :, None] + rng.normal(0, 30, (5, 64, 64))
        made.append(ramp.clip(0, 255).astype(np.uint8))
    return made
