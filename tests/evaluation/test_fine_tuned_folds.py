import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sonokit.backbones.build import Backbone, build_backbone
from sonokit.errors import SonokitError
from sonokit.evaluation.fine_tune import FineTuneSettings, fine_tune
from sonokit.evaluation.fine_tuned_folds import MoreClips, Watch, read_fine_tuned
from sonokit.evaluation.out_of_fold import FoldRows
from sonokit.evaluation.probe import LabelledClips

NAMES = np.array([f"c{k}" for k in range(8)])
TRUTH = np.arange(8) % 2
LABELLED = LabelledClips(NAMES, NAMES, TRUTH, ("dark", "bright"), np.full(8, ""))
FOLDS = [FoldRows(k, 0, np.flatnonzero(np.arange(8) // 4 != k), np.arange(4 * k, 4 * k + 4)) for k in range(2)]
SETTINGS = FineTuneSettings(size=16, epochs=1, frames_per_clip=1, batch_images=4, augment="none", batch_norm="batch")


def clip(brightness: int, seed: int) -> SimpleNamespace:
    """Two noisy frames."""
    return SimpleNamespace(
        frames=np.random.default_rng(seed).integers(0, 60, (2, 16, 16), dtype=np.uint8) + np.uint8(brightness)
    )


CLIPS = [clip(100 * bright, seed) for seed, bright in enumerate(TRUTH)]
UNLABELLED = MoreClips(np.array(["u0", "u1", "u2"]), [clip(50, 100), clip(90, 101), CLIPS[0]])


class Counted:
    """Builds the same backbone for every fold and remembers which were asked for a forward pass in training."""

    def __init__(self) -> None:
        self.trained: set[int] = set()

    def __call__(self, fold: FoldRows) -> Backbone:
        backbone = build_backbone("test_resnet", seed=0)

        def note(module: Backbone, inputs: object) -> None:
            self.trained.add(fold.index)

        backbone.register_forward_pre_hook(note)
        return backbone


def run(
    folder: Path, also: MoreClips | None = None, folds: list[FoldRows] = FOLDS, **options: str
) -> tuple[np.ndarray, set[int]]:
    counted = Counted()
    found = fine_tune(counted, CLIPS, LABELLED, folds, SETTINGS, folder=folder, also=also, **options)
    return found.values, counted.trained


def test_fold_file__says_whom_it_was_trained_on_and_what_it_cost(tmp_path: Path) -> None:
    before = time.process_time(), time.perf_counter()
    values, _ = run(tmp_path, UNLABELLED, splits="0123456789abcdef")
    cpu, wall = time.process_time() - before[0], time.perf_counter() - before[1]
    found = read_fine_tuned(tmp_path)
    assert [fold.fold for fold in found] == [0, 1]
    for fold, rows in zip(found, FOLDS, strict=True):
        assert fold.trained_on is not None
        assert set(fold.trained_on) == set(NAMES[rows.train])
        assert not set(fold.trained_on) & set(fold.clip_ids)
        assert fold.splits == "0123456789abcdef"
        assert fold.classes == ("dark", "bright")
        np.testing.assert_array_equal(fold.values, values[0, rows.test])
        assert set(fold.cost) == {"train", "predict", "also"}
        assert all(seconds["cpu_seconds"] > 0 and seconds["wall_seconds"] > 0 for seconds in fold.cost.values())
    steps = ("train", "predict", "also")
    assert 0 < sum(fold.seconds(steps=steps) for fold in found) <= cpu + 0.01  # rounded to milliseconds
    assert 0 < sum(fold.seconds("wall_seconds", steps) for fold in found) <= wall + 0.01


def test_fold_file__also_predicts_as_for_a_test_clip(tmp_path: Path) -> None:
    """The third unlabelled clip is the film of c0, which fold 0 tests."""
    run(tmp_path, UNLABELLED)
    first = read_fine_tuned(tmp_path)[0]
    assert first.also_ids.tolist() == ["u0", "u1", "u2"]
    assert first.also_values.shape == (3, 2)
    np.testing.assert_allclose(first.also_values.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(first.also_values[2], first.values[first.clip_ids.tolist().index("c0")])


def test_fold_file__asking_for_more_clips_changes_no_prediction(tmp_path: Path) -> None:
    np.testing.assert_array_equal(run(tmp_path / "plain")[0], run(tmp_path / "more", UNLABELLED)[0])


def test_fold_file__is_made_again_only_where_it_lacks_what_is_asked_for(tmp_path: Path) -> None:
    other = MoreClips(UNLABELLED.clip_ids, [*UNLABELLED.clips[:2], clip(10, 7)])  # another film under the same name
    assert run(tmp_path)[1] == {0, 1}
    assert run(tmp_path, UNLABELLED, FOLDS[:1])[1] == {0}  # it had none
    assert run(tmp_path, UNLABELLED)[1] == {1}  # fold 0 has them by now
    assert run(tmp_path)[1] == set()  # nobody asks: both serve
    assert run(tmp_path, other)[1] == {0, 1}


def test_fold_file__of_an_older_version_is_read_and_serves(tmp_path: Path) -> None:
    values, _ = run(tmp_path)
    for file in tmp_path.glob("fold-*.json"):
        found = json.loads(file.read_text(encoding="utf-8"))
        kept = ("identity", "repeat", "clip_ids", "values", "training_loss")
        file.write_text(json.dumps({name: found[name] for name in kept}), encoding="utf-8")
    again, trained = run(tmp_path)
    np.testing.assert_array_equal(again, values)
    assert trained == set()
    old = read_fine_tuned(tmp_path)[1]
    assert (old.fold, old.repeat, old.classes, old.trained_on, old.splits) == (1, 0, (), None, None)
    assert old.also_values.shape == (0, 2)
    assert np.isnan(old.seconds())


def test_fold_file__refusals(tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match="name a folder"):
        fine_tune(Counted(), CLIPS, LABELLED, FOLDS, SETTINGS, also=UNLABELLED)
    with pytest.raises(SonokitError, match="3 more clips but 2 names"):
        MoreClips(UNLABELLED.clip_ids[:2], UNLABELLED.clips)
    with pytest.raises(SonokitError, match=r"no fold-NNN\.json"):
        read_fine_tuned(tmp_path)
    (tmp_path / "fold-003.json").write_text('{"identity": "x"}', encoding="utf-8")
    with pytest.raises(SonokitError, match=r"fold-003\.json is damaged .*: remove it"):
        read_fine_tuned(tmp_path)


def test_watch__a_lap_starts_where_the_last_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, wall = iter([10.0, 10.25, 10.5]), iter([100.0, 103.0, 103.5004])
    monkeypatch.setattr(time, "process_time", lambda: next(cpu))
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall))
    watch = Watch()
    assert watch.lap() == {"cpu_seconds": 0.25, "wall_seconds": 3.0}
    assert watch.lap() == {"cpu_seconds": 0.25, "wall_seconds": 0.5}
