import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sonokit.errors import SonokitError
from sonokit.experts.heads import HEADS, head_name, load_head, make_head
from sonokit.experts.heads.auto import AutoHead
from sonokit.experts.heads.linear import LinearHead
from sonokit.experts.heads.ordinal import OrdinalHead

TASKS = ("classification", "ordinal", "regression")


def separable(clips: int = 60, dimensions: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three well-separated, ordered clouds, on scales that differ a thousandfold."""
    rng = np.random.default_rng(seed)
    codes = np.arange(clips) % 3
    scale = np.logspace(-1.5, 1.5, dimensions)
    return ((4 * codes[:, None] + rng.normal(size=(clips, dimensions))) * scale).astype(np.float32), codes


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", HEADS)
def test_head__learns_what_can_be_learnt_and_comes_back_from_disk_the_same(name: str, task: str, tmp_path: Path) -> None:
    inputs, codes = separable()
    fresh, expected = separable(seed=1)
    head = make_head((name,), task).fit(inputs, codes.astype(float) if task == "regression" else codes)
    found = head.predict(fresh)
    if task == "regression":
        assert np.abs(found - expected).mean() < 0.35
    else:
        assert (found == expected).mean() > 0.95
        np.testing.assert_allclose(head.predict_proba(fresh).sum(axis=1), 1, atol=1e-6)
    head.save(tmp_path / "head")
    again = load_head(tmp_path / "head")
    assert np.array_equal(again.predict(fresh), found)
    if task != "regression":
        assert np.array_equal(again.predict_proba(fresh), head.predict_proba(fresh))
    assert head_name(again) == name


@pytest.mark.parametrize("name", HEADS)
def test_head__same_seed_same_numbers_and_the_callers_random_numbers_untouched(name: str) -> None:
    inputs, codes = separable()
    head = make_head((name,), "classification", seed=3)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = clone(head).fit(inputs, codes), clone(head).fit(inputs, codes)
    assert np.array_equal(first.predict_proba(inputs), second.predict_proba(inputs))
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("name", HEADS)
def test_head__classes_with_a_gap_keep_their_codes(name: str) -> None:
    inputs, codes = separable()
    head = make_head((name,), "classification").fit(inputs, np.array([0, 2, 5])[codes])
    assert head.classes_.tolist() == [0, 2, 5]
    assert set(head.predict(inputs)) == {0, 2, 5}


@pytest.mark.parametrize("name", ["linear", "mlp"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_head__scale_of_a_feature_does_not_matter(name: str, task: str) -> None:
    inputs, codes = separable()
    head = make_head((name,), task)
    plain = clone(head).fit(inputs, codes).predict(inputs)
    scaled = clone(head).fit(inputs * 1024 + 7, codes).predict(inputs * 1024 + 7)
    np.testing.assert_allclose(plain, scaled, atol=1e-2)


def test_mlp__learns_from_soft_targets() -> None:
    inputs, codes = separable()
    soft = 0.8 * np.eye(3)[codes] + 0.2 / 3
    found = make_head(("mlp",), "classification").fit(inputs, soft).predict_proba(inputs)
    np.testing.assert_allclose(found.mean(axis=0), 1 / 3, atol=0.05)
    assert (found.argmax(axis=1) == codes).mean() > 0.95


def test_make_head__unknown_is_refused_with_the_choices() -> None:
    with pytest.raises(SonokitError, match="linear, mlp, xgboost"):
        make_head(("forest",), "classification")


def test_linear__refuses_a_skops_file_with_a_type_it_does_not_have(tmp_path: Path) -> None:
    inputs, codes = separable()
    LinearHead().fit(inputs, codes).save(tmp_path)
    # skops trusts a forest by itself; a linear head has none
    skops.io.dump(RandomForestClassifier(2).fit(inputs, codes), tmp_path / "linear.skops")
    with pytest.raises(SonokitError, match="RandomForestClassifier"):
        load_head(tmp_path)


class Payload:
    """A type from outside."""

    executed = False

    def __init__(self) -> None:
        self.value = 1

    def __setstate__(self, state: Any) -> None:
        Payload.executed = True


def test_linear__refuses_an_untrusted_type_without_constructing_it(tmp_path: Path) -> None:
    inputs, codes = separable()
    head = LinearHead().fit(inputs, codes)
    head.save(tmp_path)
    head.pipeline_.steps[0][1].payload_ = Payload()
    skops.io.dump(head.pipeline_, tmp_path / "linear.skops")
    with pytest.raises(SonokitError, match="Payload"):
        load_head(tmp_path)
    assert not Payload.executed


def test_load_head__damaged_or_newer_is_named(tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match=r"head\.json"):
        load_head(tmp_path)
    (tmp_path / "head.json").write_text(json.dumps({"head": "quantum"}))
    with pytest.raises(SonokitError, match="quantum"):
        load_head(tmp_path)
    (tmp_path / "head.json").write_text(json.dumps({"head": "linear", "settings": {}}))
    (tmp_path / "linear.skops").write_text("text")
    with pytest.raises(SonokitError, match=r"linear\.skops"):
        load_head(tmp_path)


class Fixed:
    """Answers the same probability for everybody; each copy the next of a list."""

    answers: tuple[float, ...] = ()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {}

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Fixed":
        self.answer, Fixed.answers = Fixed.answers[0], Fixed.answers[1:]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return np.tile([1 - self.answer, self.answer], (len(X), 1))


def test_ordinal__contradicting_thresholds_are_clipped() -> None:
    Fixed.answers = (0.6, 0.8, 0.1)  # P(>0), P(>1), P(>2): the second cannot exceed the first
    head = OrdinalHead(Fixed()).fit(np.zeros((4, 1)), np.arange(4))
    np.testing.assert_allclose(head.predict_proba(np.zeros((1, 1)))[0], [0.4, 0.0, 0.5, 0.1], atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_ordinal__probabilities_sum_to_one_and_exceedance_falls(name: str) -> None:
    rng = np.random.default_rng(0)
    inputs, codes = rng.normal(size=(50, 5)).astype(np.float32), rng.integers(0, 4, 50)
    found = make_head((name,), "ordinal").fit(inputs, codes).predict_proba(rng.normal(size=(30, 5)).astype(np.float32))
    assert found.shape == (30, 4)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)


class Chooses:
    """A head that is right or wrong on purpose."""

    def __init__(self, right: bool = True) -> None:
        self.right = right

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"right": self.right}

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Chooses":
        self.classes_, self.seen = np.unique(y), len(y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        hit = np.eye(2)[X[:, 0].astype(int)]
        return hit if self.right else 1 - hit


def test_auto__chooses_on_inner_folds_and_fits_again_on_all() -> None:
    codes = np.tile([0, 1], 15)
    head = AutoHead({"bad": Chooses(False), "good": Chooses(True)}).fit(codes[:, None].astype(float), codes, np.arange(30) // 3)
    assert head.chosen_ == "good"
    assert head.inner_scores_ == {"bad": 0.0, "good": 1.0}
    assert head.head_.seen == 30


def test_auto__inner_folds_keep_patients_together() -> None:
    _, codes = separable()
    patients = np.arange(60) // 4
    for fold in AutoHead({})._inner_folds(np.zeros((60, 1)), codes, patients):
        assert not set(patients[fold.train]) & set(patients[fold.test])


def test_auto__one_patient_takes_the_first() -> None:
    codes = np.tile([0, 1], 5)
    head = AutoHead({"first": Chooses(False), "second": Chooses(True)}).fit(codes[:, None].astype(float), codes, np.zeros(10))
    assert head.chosen_ == "first"


def test_auto__class_of_one_row_is_no_fault(recwarn: pytest.WarningsRecorder) -> None:
    inputs, codes = separable()
    head = make_head(("linear", "xgboost"), "classification").fit(
        inputs, np.where(np.arange(60) == 0, 3, codes), np.arange(60) // 2
    )
    assert head.classes_.tolist() == [0, 1, 2, 3]
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


def test_auto__saves_what_was_chosen(tmp_path: Path) -> None:
    inputs, codes = separable()
    head = make_head(("linear", "xgboost"), "ordinal").fit(inputs, codes, np.arange(60) // 2)
    head.save(tmp_path)
    assert np.array_equal(load_head(tmp_path).predict_proba(inputs), head.predict_proba(inputs))
    assert head_name(load_head(tmp_path)) == head.chosen_


def penalised_loss(head: Any, inputs: np.ndarray, codes: np.ndarray) -> float:
    """½‖W‖² + Σ −log p, each class weighing as much as every other: what C = 1 and balanced classes stand for, by hand."""
    scaled = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    model = head.pipeline_["model"]
    logits = scaled @ model.coef_.T + model.intercept_  # [N, K], or [N, 1] of class 1 against class 0
    logits = np.hstack([np.zeros_like(logits), logits]) if logits.shape[1] == 1 else logits
    loss = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(codes)), codes]
    weights = len(codes) / (logits.shape[1] * np.bincount(codes))
    return float((model.coef_**2).sum() / 2 + (weights[codes] * loss).sum())


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_head__weights_are_at_the_bottom_of_the_penalised_loss(classes: int) -> None:
    """The loss curves at least by ½‖ΔW‖², so no step from its bottom may lower it by more than the solver's tolerance."""
    rng = np.random.default_rng(0)
    inputs, codes = rng.normal(size=(40, 300)), np.minimum(np.arange(40) % 8, classes - 1)  # the last class is the largest
    head = LinearHead().fit(inputs, codes)
    bottom = penalised_loss(head, inputs, codes)
    weights = head.pipeline_["model"].coef_
    for step in [*(0.02 * rng.normal(size=(20, *weights.shape))), -0.05 * weights, 0.05 * weights]:
        head.pipeline_["model"].coef_ = weights + step
        assert penalised_loss(head, inputs, codes) > bottom + 0.4 * (step**2).sum()
