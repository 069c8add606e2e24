import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sonokit.backbones.build import Backbone, build_backbone
from sonokit.errors import SonokitError
from sonokit.evaluation.fine_tune import FineTuneSettings, fine_tune
from sonokit.evaluation.out_of_fold import FoldRows
from sonokit.evaluation.probe import LabelledClips

TRUTH = np.arange(16) % 2
PATIENTS = np.array([f"p{k:02d}" for k in range(16)])
LABELLED = LabelledClips(PATIENTS, PATIENTS, TRUTH, ("level", "upright"), np.full(16, ""))
FOLDS = [FoldRows(k, 0, np.flatnonzero(np.arange(16) // 4 != k), np.arange(4 * k, 4 * k + 4)) for k in range(4)]
SETTINGS = FineTuneSettings(
    size=32, epochs=6, frames_per_clip=2, batch_images=8, learning_rate=1e-2, backbone_learning_rate=1e-3, augment="none",
    batch_norm="batch",
)  # fmt: skip

BRIEF = replace(SETTINGS, epochs=1)


def clip(upright: int, seed: int) -> SimpleNamespace:
    """Three noisy frames with bright stripes, level or upright."""
    frames = np.random.default_rng(seed).integers(0, 60, (3, 32, 32), dtype=np.uint8)
    stripes = np.where(np.arange(32) // 4 % 2, 150, 0).astype(np.uint8)
    return SimpleNamespace(frames=frames + (stripes[None, None, :] if upright else stripes[None, :, None]))


CLIPS = [clip(upright, seed) for seed, upright in enumerate(TRUTH)]


def fresh(fold: FoldRows) -> Backbone:
    return build_backbone("test_resnet", seed=0)


def test_fine_tune__learns_a_visual_rule() -> None:
    found = fine_tune(fresh, CLIPS, LABELLED, FOLDS, SETTINGS)
    assert found.values.shape == (1, 16, 2)
    np.testing.assert_allclose(found.values.sum(axis=2), 1, atol=1e-6)
    assert found.by_repeat()[0]["balanced_accuracy"] == 1


def test_fine_tune__is_deterministic_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    first = fine_tune(fresh, CLIPS, LABELLED, FOLDS[:1], SETTINGS)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(2))
    np.testing.assert_array_equal(fine_tune(fresh, CLIPS, LABELLED, FOLDS[:1], SETTINGS).values, first.values)


def test_fine_tune__goes_on_at_the_fold_where_it_was(tmp_path: Path) -> None:
    whole = fine_tune(fresh, CLIPS, LABELLED, FOLDS, BRIEF, folder=tmp_path / "whole")

    def killed(fold: FoldRows) -> Backbone:
        if fold.index == 2:
            raise KeyboardInterrupt
        return fresh(fold)

    with pytest.raises(KeyboardInterrupt):
        fine_tune(killed, CLIPS, LABELLED, FOLDS, BRIEF, folder=tmp_path / "parts")
    assert sorted(file.name for file in (tmp_path / "parts").iterdir()) == ["fold-000.json", "fold-001.json"]
    kept = (tmp_path / "parts" / "fold-000.json").stat().st_mtime_ns
    found = fine_tune(fresh, CLIPS, LABELLED, FOLDS, BRIEF, folder=tmp_path / "parts")
    np.testing.assert_array_equal(found.values, whole.values)
    assert (tmp_path / "parts" / "fold-000.json").stat().st_mtime_ns == kept


def test_fine_tune__a_fold_of_other_settings_weights_or_labels_is_trained_again(tmp_path: Path) -> None:
    one = [FOLDS[0]]
    other_truth = LabelledClips(PATIENTS, PATIENTS, 1 - TRUTH, ("level", "upright"), np.full(16, ""))
    identities = set()
    for backbone_of, labelled, settings in (
        (fresh, LABELLED, SETTINGS),
        (fresh, LABELLED, BRIEF),
        (lambda _: build_backbone("test_resnet", seed=1), LABELLED, BRIEF),
        (fresh, other_truth, BRIEF),
    ):
        fine_tune(backbone_of, CLIPS, labelled, one, settings, folder=tmp_path)
        identities.add(json.loads((tmp_path / "fold-000.json").read_text())["identity"])
    assert len(identities) == 4


def test_fine_tune__a_test_clips_label_changes_nothing_in_its_fold() -> None:
    flipped = TRUTH.copy()
    flipped[FOLDS[0].test] = 1 - flipped[FOLDS[0].test]
    other = LabelledClips(PATIENTS, PATIENTS, flipped, ("level", "upright"), np.full(16, ""))
    first, second = (fine_tune(fresh, CLIPS, labelled, FOLDS[:1], BRIEF) for labelled in (LABELLED, other))
    np.testing.assert_array_equal(first.values, second.values)


def test_fine_tune__frozen_statistics_stay_and_weights_do_not() -> None:
    trained: list[Backbone] = []

    def kept(fold: FoldRows) -> Backbone:
        trained.append(fresh(fold))
        return trained[-1]

    frozen = replace(BRIEF, batch_norm="frozen")
    for settings in (frozen, BRIEF):
        fine_tune(kept, CLIPS, LABELLED, FOLDS[:1], settings)
    before = fresh(FOLDS[0]).state_dict()
    changed = [{name for name, value in b.state_dict().items() if not torch.equal(value, before[name])} for b in trained]
    assert not any("running" in name for name in changed[0])
    assert any("running_mean" in name for name in changed[1])
    assert all("conv1.weight" in " ".join(names) for names in changed)


def test_fine_tune__refuses_what_cannot_work() -> None:
    with pytest.raises(SonokitError, match="15 clips but labels of 16"):
        fine_tune(fresh, CLIPS[:15], LABELLED, FOLDS, SETTINGS)
    with pytest.raises(SonokitError, match="too little to train on"):
        fine_tune(fresh, CLIPS, LABELLED, [FoldRows(0, 0, np.array([], dtype=np.int64), np.arange(4))], SETTINGS)
    with pytest.raises(SonokitError, match="epochs must be at least 1"):
        FineTuneSettings(epochs=0)
    with pytest.raises(SonokitError, match="unknown augmentation"):
        FineTuneSettings(augment="heavy")  # type: ignore[arg-type]
