import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sonokit.errors import SonokitError
from sonokit.experts.heads import HEADS, head_name, load_head, make_head
from sonokit.experts.heads.boosted import BoostedHead
from sonokit.experts.heads.linear import LinearHead
from sonokit.experts.heads.ordinal import OrdinalHead
from sonokit.experts.heads.span import spanned

TASKS = ("classification", "ordinal", "regression")


def separable(clips: int = 60, dimensions: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three well-separated, ordered clouds, on scales that differ a thousandfold."""
    rng = np.random.default_rng(seed)
    codes = np.arange(clips) % 3
    scale = np.logspace(-1.5, 1.5, dimensions)
    return ((4 * codes[:, None] + rng.normal(size=(clips, dimensions))) * scale).astype(np.float32), codes


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", HEADS)
def test_head__learns_what_can_be_learnt_and_comes_back_from_disk_the_same(name: str, task: Any, tmp_path: Path) -> None:
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
def test_head__scale_of_a_feature_does_not_matter(name: str, task: Any) -> None:
    inputs, codes = separable()
    head = make_head((name,), task)
    plain = clone(head).fit(inputs, codes).predict(inputs)
    scaled = clone(head).fit(inputs * 1024 + 7, codes).predict(inputs * 1024 + 7)
    np.testing.assert_allclose(plain, scaled, atol=1e-2)


@pytest.mark.parametrize("task", ["classification", "ordinal"])
@pytest.mark.parametrize("name", HEADS)
def test_head__soft_targets_of_one_class_each_are_codes(name: str, task: Any) -> None:
    """Also where the classes are of unequal size, so that the weighting by mass is the one by count; code 1 does not occur."""
    inputs, codes = separable()
    codes = np.where((codes == 1) & (np.arange(60) > 20), 2, codes)
    head = make_head((name,), task)
    hard = clone(head).fit(inputs, codes + (codes > 0))
    soft = clone(head).fit(inputs, np.eye(5)[codes + (codes > 0)])
    assert soft.classes_.tolist() == hard.classes_.tolist() == [0, 2, 3]
    np.testing.assert_allclose(soft.predict_proba(inputs), hard.predict_proba(inputs), atol=1e-6)


@pytest.mark.parametrize("task", ["classification", "ordinal"])
@pytest.mark.parametrize("name", HEADS)
def test_head__learns_what_soft_targets_say(name: str, task: Any) -> None:
    """Nothing to tell the rows apart: the answer is the targets' mean, once all classes count alike."""
    inputs = np.zeros((40, 3), dtype=np.float32)
    soft = np.tile([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], (20, 1))
    found = make_head((name,), task).fit(inputs, soft).predict_proba(inputs[:1])[0]
    if task == "ordinal":  # a threshold's two sides count alike: 1/2 each, so nothing is in between
        np.testing.assert_allclose(found, [0.5, 0, 0.5], atol=0.03)
    else:
        np.testing.assert_allclose(found, 1 / 3, atol=0.03)


def test_linear__soft_targets_are_at_the_bottom_of_the_weighted_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    inputs, soft = rng.normal(size=(50, 4)), rng.dirichlet([1.0, 2, 3], 50)
    head = LinearHead(C=0.7).fit(inputs, soft)
    scaled = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    weighted = soft * 50 / (3 * soft.sum(axis=0))

    def loss(flat: np.ndarray) -> float:
        weights, offsets = flat[:12].reshape(3, 4), flat[12:]
        logits = scaled @ weights.T + offsets
        return (weights**2).sum() / 2 - 0.7 * (weighted * (logits - logsumexp(logits, axis=1, keepdims=True))).sum()

    expected = minimize(loss, np.zeros(15), options={"gtol": 1e-9}).x[:12].reshape(3, 4)
    np.testing.assert_allclose(head.pipeline_["model"].coef_, expected, atol=1e-4)


def test_head__soft_targets_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(SonokitError, match="row 1"):
        LinearHead().fit(np.zeros((2, 3)), np.array([[0.5, 0.5], [0.5, 0.6]]))


@pytest.mark.parametrize("classes", [0, 2, 3])
@pytest.mark.parametrize("rows", [300, 40, 11])
def test_linear__is_plain_scikit_learn_however_it_is_solved(classes: int, rows: int) -> None:
    """More rows than features, more features than rows, and so many that rows repeat: the same model, at its very bottom."""
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(rows, 60)) * rng.uniform(0.1, 10, 60)
    inputs[-3:] = inputs[:3]
    fresh = rng.normal(size=(20, 60)) * 5
    if classes == 0:
        numbers = inputs[:, 0] + rng.normal(size=rows)
        plain = make_pipeline(StandardScaler(), Ridge(alpha=6.0)).fit(inputs, numbers)
        np.testing.assert_allclose(LinearHead("regression").fit(inputs, numbers).predict(fresh), plain.predict(fresh))
        return
    codes = np.arange(rows) % 7 % classes
    plain = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10_000)
    expected = make_pipeline(StandardScaler(), plain).fit(inputs, codes).predict_proba(fresh)
    np.testing.assert_allclose(LinearHead().fit(inputs, codes).predict_proba(fresh), expected, atol=1e-5)


def test_linear__many_rows_by_the_other_solver_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    inputs, codes = rng.normal(size=(300, 10)), rng.integers(0, 3, 300)
    newton = LinearHead().fit(inputs, codes)
    monkeypatch.setattr("sonokit.experts.heads.linear.NEWTON_WORK", 0)
    quasi = LinearHead().fit(inputs, codes)
    assert newton.pipeline_["model"].solver != quasi.pipeline_["model"].solver
    np.testing.assert_allclose(newton.predict_proba(inputs), quasi.predict_proba(inputs), atol=1e-4)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("name", ["mlp", "xgboost"])
def test_head__a_stage_is_the_head_of_its_settings(name: str, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sonokit.experts.heads.boosted.ROUNDS", (3, 8))
    monkeypatch.setattr("sonokit.experts.heads.mlp.LENGTHS", (0.05, 0.2))
    inputs, codes = separable(dimensions=70)  # more than rows
    head = make_head((name,), task)
    said = clone(head).fit_staged(inputs, codes, inputs[:9])
    for stage, values in zip(head.stages(), said, strict=True):
        alone = clone(head).set_params(**stage).fit(inputs, codes)
        expected = alone.predict(inputs[:9]) if task == "regression" else alone.predict_proba(inputs[:9])
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_boosted__threads_do_not_change_the_numbers() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(9000, 6)).astype(np.float32)
    codes = (inputs[:, 0] + rng.normal(size=9000) > 0).astype(int) + (inputs[:, 1] > 1)
    one, two = (BoostedHead(rounds=10, n_jobs=count).fit(inputs, codes).predict_proba(inputs) for count in (1, 2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("shape", [(12, 40), (12, 13)])
def test_spanned__coordinates_and_basis_give_the_rows_back(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape)
    rows -= rows.mean(axis=0)  # of rank 11
    found = spanned(rows)
    assert found is not None
    coordinates, basis = found
    assert coordinates.shape == (12, 11)
    np.testing.assert_allclose(coordinates @ basis.T, rows, atol=1e-12)
    np.testing.assert_allclose(basis.T @ basis, np.eye(11), atol=1e-12)
    assert spanned(rows.T) is None
    alike = spanned(np.zeros((2, 5)))
    assert alike is not None
    assert alike[0].tolist() == [[0.0], [0.0]]


def test_mlp__says_nothing_of_what_no_training_row_spans() -> None:
    inputs, codes = separable(clips=20, dimensions=50)
    head = make_head(("mlp",), "classification").fit(inputs, codes)
    scaled = (inputs - head.mean_) / head.scale_
    outside = np.linalg.svd(scaled)[2][-1] * head.scale_  # orthogonal to all rows
    np.testing.assert_allclose(head.predict_proba(inputs + 100 * outside), head.predict_proba(inputs), atol=1e-3)


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


def test_mlp__steps_are_those_of_adamw() -> None:
    """Against Loshchilov and Hutter's formula (2019)."""
    from sonokit.experts.heads.mlp import _AdamW

    rng = np.random.default_rng(0)
    inputs, start = rng.normal(size=(5, 6)), rng.normal(size=(6, 3))
    weights = torch.from_numpy(start.copy()).requires_grad_()
    stepping = _AdamW([weights], 3e-3, 0.1)
    expected, mean, square = start.copy(), np.zeros((6, 3)), np.zeros((6, 3))
    for t in range(1, 21):
        stepping.step((torch.from_numpy(inputs) @ weights).square().sum())
        gradient = 2 * inputs.T @ inputs @ expected
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        expected = expected * (1 - 3e-3 * 0.1)
        expected = expected - 3e-3 * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-7)


def test_mlp__a_fit_does_without_torchs_optimisers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them pulls torch's compiler in, which takes seconds."""
    inputs, codes = separable()
    monkeypatch.setattr(torch.optim.Optimizer, "__init__", None)
    assert (make_head(("mlp",), "classification").fit(inputs, codes).predict(inputs) == codes).all()
