from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.naive_bayes import GaussianNB
from sonokit.errors import SonokitError
from sonokit.evaluation.nested import inner_folds
from sonokit.evaluation.scores import score
from sonokit.experts.heads import ChosenHead, SearchSettings, head_name, load_head, make_head
from sonokit.experts.heads.linear import LinearHead
from sonokit.experts.heads.search import candidates, grid_of, hopeless, row_losses, stage_losses


class Answers(BaseEstimator):
    """Right or wrong on purpose: the first feature is the code of two classes."""

    def __init__(self, right: bool = True, share: float = 1.0) -> None:
        self.right = right
        self.share = share

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Answers":
        self.classes_, self.seen = np.unique(y), len(y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        hit = np.eye(2)[X[:, 0].astype(int)]
        hit[: int((1 - self.share) * len(X))] = [0.5, 0.5]
        return hit if self.right else 1 - hit


class Grows(Answers):
    """Best after two of three stages."""

    def __init__(self, length: int = 3) -> None:
        super().__init__()
        self.length = length

    def stages(self) -> tuple[dict[str, Any], ...]:
        return ({"length": 1}, {"length": 2}, {"length": 3})

    def fit_staged(self, X: np.ndarray, y: np.ndarray, tested: np.ndarray) -> np.ndarray:
        sure = self.fit(X, y).predict_proba(tested)
        return np.stack([share * sure + (1 - share) / 2 for share in (0.1, 0.8, 0.3)])


def clouds(rows: int = 60, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [N, 6] of which the first three say the class, truth [N], patients [N] of two rows."""
    rng = np.random.default_rng(seed)
    codes = (np.arange(rows) // 2) % 3
    inputs = rng.normal(size=(rows, 6)) * noise
    inputs[:, :3] += 2 * np.eye(3)[codes]
    return inputs.astype(np.float32), codes, np.arange(rows) // 2


CODES = np.tile([0, 1], 15)
SEEN = CODES[:, None].astype(float)


def test_chosen__chooses_on_inner_folds_and_fits_again_on_all() -> None:
    head: Any = ChosenHead({"bad": Answers(False), "good": Answers(True)}).fit(SEEN, CODES, np.arange(30) // 3)
    assert (head.chosen_, head.recipe_, head.settings_, head.columns_) == ("good", None, {}, None)
    assert [(trial["head"], trial["inner_score"]) for trial in head.trials_] == [("bad", 0.0), ("good", 1.0)]
    assert head.head_.seen == 30


def test_chosen__one_patient_takes_the_first_and_a_tie_too() -> None:
    heads = {"first": Answers(False), "second": Answers(True)}
    alone = ChosenHead(heads).fit(SEEN[:10], CODES[:10], np.zeros(10))
    assert (alone.chosen_, alone.inner_values_, alone.trials_) == ("first", None, [])
    tied = ChosenHead({"b": Answers(True), "a": Answers(True)}).fit(SEEN, CODES, np.arange(30) // 3)
    assert tied.chosen_ == "b"


def test_chosen__inner_values_are_those_of_heads_that_had_not_seen_the_patient() -> None:
    """Against the same division and fits by hand; and the score that it was chosen by is theirs."""
    inputs, codes, patients = clouds(noise=2.0)
    head = make_head(("linear", "xgboost"), "classification", seed=4).fit(inputs, codes, patients)
    expected = np.full((60, 3), np.nan)
    for fold in inner_folds(codes, patients, task="classification", folds=5, seed=4):
        alone = make_head((head.chosen_,), "classification", seed=4).fit(inputs[fold.train], codes[fold.train])
        expected[fold.test] = alone.predict_proba(inputs[fold.test])
    np.testing.assert_allclose(head.inner_values_, expected, atol=1e-7)
    best = max(trial["inner_score"] for trial in head.trials_)
    assert best == pytest.approx(score("classification", codes, expected)["balanced_accuracy"])


def test_chosen__takes_the_recipe_whose_features_say_something() -> None:
    inputs, codes, patients = clouds(noise=0.5)
    columns = {"noise": np.array([3, 4, 5]), "signal": np.array([0, 1, 2])}
    head = make_head(("linear",), "classification", columns=columns).fit(inputs, codes, patients)
    assert (head.chosen_, head.recipe_) == ("linear", "signal")
    assert head.columns_.tolist() == [0, 1, 2]
    alone = LinearHead().fit(inputs[:, :3], codes)
    assert np.array_equal(head.predict_proba(inputs), alone.predict_proba(inputs[:, :3]))


def test_chosen__saved_is_the_head_of_its_recipe_alone(tmp_path: Path) -> None:
    inputs, codes, patients = clouds(noise=0.5)
    columns = {"noise": np.array([3, 4, 5]), "signal": np.array([0, 1, 2])}
    head = make_head(("linear", "xgboost"), "ordinal", columns=columns).fit(inputs, codes, patients)
    head.save(tmp_path)
    again = load_head(tmp_path)
    assert np.array_equal(again.predict_proba(np.ascontiguousarray(inputs[:, head.columns_])), head.predict_proba(inputs))
    assert head_name(again) == head.chosen_ == head_name(head)


def test_make_head__one_of_everything_and_no_search_is_the_head_itself() -> None:
    columns = {"mean": np.arange(3)}
    assert isinstance(make_head(("linear",), "classification", columns=columns, search=SearchSettings()), LinearHead)
    several = make_head(("linear", "xgboost"), "classification", columns=columns)
    inputs, codes, patients = clouds()
    several.fit(inputs, codes, patients)
    assert (several.recipe_, several.columns_) == ("mean", None)
    assert isinstance(make_head(("linear",), "classification", search=SearchSettings(seconds=0)), ChosenHead)


def test_chosen__class_of_one_row_is_no_fault(recwarn: pytest.WarningsRecorder) -> None:
    inputs, codes, patients = clouds()
    codes = np.where(np.arange(60) == 0, 3, codes)
    head = make_head(("linear", "xgboost"), "classification").fit(inputs, codes, patients)
    assert head.classes_.tolist() == [0, 1, 2, 3]
    assert head.inner_values_.shape == (60, 4)
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_search__trials_repeat_exactly_and_a_longer_one_begins_as_a_shorter(task: Any) -> None:
    inputs, codes, patients = clouds(noise=2.0)
    truth = codes + 0.1 * inputs[:, 3] if task == "regression" else codes

    def tried(trials: int) -> tuple[list[Any], np.ndarray]:
        search = SearchSettings(trials=trials, inner_folds=3)
        head = make_head(("linear",), task, columns={"a": np.arange(3), "b": np.arange(6)}, search=search, seed=1)
        head.fit(inputs, truth, patients)
        told = [{name: value for name, value in trial.items() if name != "seconds"} for trial in head.trials_]
        return told, head.inner_values_

    long, values = tried(6)
    again, values_again = tried(6)
    assert long == again
    assert np.array_equal(values, values_again)
    assert tried(2)[0] == long[:4]
    assert len(long) == 8
    assert [(trial["recipe"], trial["settings"]) for trial in long[:2]] == [("a", {}), ("b", {})]


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_search__no_time_still_tries_the_defaults_and_finds_their_length(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sonokit.experts.heads.boosted.ROUNDS", (5, 10))
    monkeypatch.setattr("sonokit.experts.heads.mlp.LENGTHS", (0.05, 0.1))
    inputs, codes, patients = clouds(30)
    truth = codes.astype(float) if task == "regression" else codes
    search = SearchSettings(seconds=0, inner_folds=2)
    head = make_head(("xgboost", "mlp"), task, search=search).fit(inputs, truth, patients)
    assert [trial["head"] for trial in head.trials_] == ["xgboost", "mlp"]
    inner = [{name.removeprefix("base__") for name in trial["settings"]} for trial in head.trials_]
    assert inner == [{"rounds"}, {"steps", "passes"}]
    assert head.head_.get_params().items() >= head.settings_.items()


def test_search__length_of_training_is_the_best_stage_of_the_inner_folds() -> None:
    head: Any = ChosenHead({"grows": Grows()}, search=SearchSettings(seconds=0)).fit(SEEN, CODES, np.arange(30) // 3)
    assert head.settings_ == {"length": 2}
    assert head.head_.length == 2
    np.testing.assert_allclose(head.inner_values_[np.arange(30), CODES], 0.9)


def test_search__finds_the_penalty_that_the_default_misses() -> None:
    """Many useless features: ridge at its default penalty is far off, and the grid holds a better one."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(80, 60))
    truth = inputs @ np.r_[np.full(60, 1.0)] + rng.normal(0, 0.1, 80)
    head = make_head(("linear",), "regression", search=SearchSettings(trials=12)).fit(inputs, truth)
    assert head.settings_["penalty"] < 0.01
    default, best = head.trials_[0]["inner_score"], min(trial["inner_score"] for trial in head.trials_)
    assert best < 0.5 * default


def test_candidates__defaults_come_first_then_heads_in_turn_without_a_repeat() -> None:
    heads = {"linear": make_head(("linear",), "classification"), "xgboost": make_head(("xgboost",), "classification")}
    listed = [next_one for _, next_one in zip(range(60), candidates(heads, ("a", "b"), 0), strict=False)]
    assert [(one.head, one.recipe, drawn) for one, drawn in listed[:4]] == [
        (name, recipe, False) for recipe in ("a", "b") for name in heads
    ]
    assert [one.head for one, _ in listed[4:10]] == ["linear", "xgboost"] * 3
    kept = [(one.head, one.recipe, str(one.settings)) for one, _ in listed]
    assert len(set(kept)) == len(kept)
    # linear's grid, twice, less the default that was tried: then the other head goes on alone
    assert sum(one.head == "linear" and drawn for one, drawn in listed) == 2 * 12
    assert listed[-1][0].head == "xgboost"
    penalties = [one.settings["C"] for one, drawn in listed if drawn and one.head == "linear"][:8]
    assert penalties != sorted(penalties)  # drawn, not walked through


def test_grid__of_an_ordinal_head_is_that_of_the_head_inside() -> None:
    head = make_head(("linear",), "ordinal")
    assert set(grid_of(head)) == {"base__C"}
    assert set(grid_of(head)) <= set(head.get_params())
    assert grid_of(GaussianNB()) == {}


def test_losses__are_the_primary_score_the_other_way_round() -> None:
    rng = np.random.default_rng(0)
    truth, values = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50)
    recall = score("classification", truth, values)["balanced_accuracy"]
    assert 1 - row_losses("classification", truth, values).sum() / 3 == pytest.approx(recall)
    numbers, said = rng.normal(size=50), rng.normal(size=50)
    assert row_losses("regression", numbers, said).mean() == pytest.approx(score("regression", numbers, said)["mae"])
    distance = row_losses("ordinal", np.array([0, 2]), np.array([[0.0, 0, 1], [0, 1, 0]]))
    assert distance.tolist() == [4.0, 1.0]
    staged = stage_losses("regression", numbers, np.stack([said, numbers]))
    np.testing.assert_allclose(staged, [((said - numbers) ** 2).mean(), 0])


def test_hopeless__only_what_is_clearly_worse_over_enough_patients() -> None:
    patients = np.repeat(np.arange(10), 2)
    rng = np.random.default_rng(0)
    best, clearly = np.zeros(20), np.ones(20) + 0.1 * rng.normal(size=20)
    unsure = np.where(patients == 3, 5.0, 0.0)  # all of it by one patient
    assert hopeless(clearly, best, patients)
    assert not hopeless(best, clearly, patients)
    assert not hopeless(unsure, best, patients)
    assert not hopeless(clearly[:6], best[:6], patients[:6])
    assert not hopeless(best, best, patients)


def test_chosen__a_hopeless_candidate_is_given_up_and_never_chosen() -> None:
    head: Any = ChosenHead({"good": Answers(True), "bad": Answers(False)}).fit(SEEN, CODES, np.arange(30) // 2)
    assert [trial["given_up"] for trial in head.trials_] == [False, True]
    assert head.chosen_ == "good"


def test_chosen__much_data_is_chosen_on_whole_patients_and_fitted_on_all() -> None:
    codes, patients = np.tile([0, 1], 100), np.arange(200) // 4
    heads = {"a": Answers(True), "b": Answers(True)}
    head: Any = ChosenHead(heads, choosing_rows=60).fit(codes[:, None].astype(float), codes, patients)
    looked_at = ~np.isnan(head.inner_values_).any(axis=1)
    assert looked_at.sum() == 60
    assert not set(patients[looked_at]) & set(patients[~looked_at])
    assert head.head_.seen == 200


def test_search_settings__nonsense_is_refused() -> None:
    with pytest.raises(SonokitError, match="-1 trials"):
        SearchSettings(trials=-1)
    with pytest.raises(SonokitError, match="inner folds"):
        SearchSettings(inner_folds=1)
    with pytest.raises(SonokitError, match="nan seconds"):
        SearchSettings(seconds=float("nan"))


def test_chosen__large_patients_of_which_a_fold_would_test_none() -> None:
    sizes = [2, 5, 5, 1, 9]
    patients, codes = np.repeat(np.arange(5), sizes), np.repeat([0, 0, 1, 1, 1], sizes)
    inputs = np.random.default_rng(0).normal(size=(len(codes), 4)).astype(np.float32)
    head = make_head(("linear", GaussianNB()), "classification", 3).fit(inputs, codes, patients)
    assert head.inner_values_.shape == (len(codes), 2)
    assert not np.isnan(head.inner_values_).any()
