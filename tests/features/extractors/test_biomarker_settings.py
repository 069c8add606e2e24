import dataclasses
import re

import pytest
import torch
from sonokit.errors import SonokitError
from sonokit.features.extractors.settings import BiomarkerSettings

SETTINGS = BiomarkerSettings(("bright", "split"), embedding=8, calibration="none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"biomarkers": ()}, "at least one biomarker"),
        ({"biomarkers": ("a", "a")}, "names a more than once"),
        ({"pooling": "max"}, "pooling must be one of mean, lse, attention, noisy_or, it is 'max'"),
        ({"tune": "half"}, "tune must be one of none, part, all"),
        ({"calibration_folds": 1, "calibration": "inner"}, "calibration_folds must be at least 2, it is 1"),
        ({"calibration_folds": 5}, "calibration_folds does nothing with calibration none"),
        ({"stages": 2}, "stages does nothing with tune none"),
        ({"batch_norm": "batch", "tune": "part"}, "batch_norm does nothing with tune part"),
        ({"batch_clips": 4}, "batch_clips does nothing with tune none"),
        ({"backbone_learning_rate": 1e-3}, "backbone_learning_rate does nothing with tune none"),
        ({"segments": 1, "pooling": "attention"}, "attention has nothing to choose among"),
        ({"dropout": 1.0}, "dropout must lie in 0 … below 1"),
        ({"label_smoothing": 0.5}, "label_smoothing must lie in 0 … below 0.5"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"seed": -1, "segments": 0}, "segments must be at least 1, it is 0; seed must be at least 0"),
    ],
)
def test_settings__faults_are_named(changes, message):
    with pytest.raises(SonokitError, match=re.escape(message)):
        dataclasses.replace(SETTINGS, **changes).check()


def test_settings__class_weights_and_epochs_reach_the_fitting():
    labels = torch.tensor([[1.0], [0.0], [0.0]])
    fitting = SETTINGS.fitting()
    assert fitting.positive_weights(labels).tolist() == [2.0]
    assert dataclasses.replace(SETTINGS, class_weights="none").fitting().positive_weights(labels).tolist() == [1.0]
    assert (fitting.head_epochs, fitting.epochs) == (30, 0)
    part = dataclasses.replace(SETTINGS, tune="part", epochs=7).fitting()
    assert (part.head_epochs, part.epochs) == (30, 7)
    assert BiomarkerSettings(("a",)).check() is None
