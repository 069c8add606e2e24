import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from sonokit.experts.heads.boosted import BoostedHead
from sonokit.experts.heads.contributions import contributions
from sonokit.experts.heads.linear import LinearHead
from sonokit.experts.heads.ordinal import OrdinalHead


def rows(classes: int, seed: int = 0, features: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(90) % classes
    return (np.eye(classes, features)[y] + rng.normal(0, 0.7, (90, features))).astype(np.float32), y


@pytest.mark.parametrize(("classes", "margins"), [(2, 1), (3, 3)])
def test_contributions__of_trees_sum_to_the_margin(classes: int, margins: int) -> None:
    X, y = rows(classes)
    head = BoostedHead(rounds=20).fit(X, y)
    found = contributions(head, X)
    assert found is not None
    assert found.shape == (90, margins, 5)
    margin = np.asarray(head.model_.predict(X, output_margin=True)).reshape(90, margins)
    np.testing.assert_allclose(found.sum(axis=2), margin, atol=1e-4)


@pytest.mark.parametrize(("classes", "margins"), [(2, 1), (3, 3)])
def test_contributions__of_a_line_are_slope_times_standardised_value(classes: int, margins: int) -> None:
    X, y = rows(classes)
    head = LinearHead().fit(X, y)
    found = contributions(head, X)
    assert found is not None
    assert found.shape == (90, margins, 5)
    decision = head.pipeline_.decision_function(X.astype(np.float64)).reshape(90, margins)
    np.testing.assert_allclose(found.sum(axis=2), decision, atol=1e-9)
    by_hand = (X[7, 2] - X[:, 2].astype(np.float64).mean()) / X[:, 2].astype(np.float64).std() * head.pipeline_[-1].coef_[0, 2]
    assert found[7, 0, 2] == pytest.approx(by_hand)


@pytest.mark.parametrize("kind", [LinearHead, BoostedHead])
def test_contributions__of_a_number_are_in_its_units(kind: Any) -> None:
    X, y = rows(3)
    head = kind(task="regression").fit(X, 100.0 * y)
    found = contributions(head, X)
    assert found is not None
    np.testing.assert_allclose(found.sum(axis=2)[:, 0], head.predict(X), rtol=1e-4, atol=1e-3)


def test_contributions__of_ordered_classes_are_those_of_each_threshold() -> None:
    X, y = rows(3)
    head = OrdinalHead(LinearHead()).fit(X, y)
    found = contributions(head, X)
    assert found is not None
    assert found.shape == (90, 2, 5)
    alone = contributions(LinearHead().fit(X, (y > 1).astype(int)), X)
    assert alone is not None
    np.testing.assert_allclose(found[:, 1], alone[:, 0])


def test_contributions__of_a_chosen_head_are_at_the_columns_that_it_reads() -> None:
    class Chosen:
        chosen_ = "linear"
        columns_ = np.array([3, 0])

    X, y = rows(2)
    head: Any = Chosen()
    head.head_ = LinearHead().fit(X[:, [3, 0]], y)
    found, inner = contributions(head, X), contributions(head.head_, X[:, [3, 0]])
    assert found is not None
    assert inner is not None
    np.testing.assert_array_equal(found[:, :, [3, 0, 4]], inner)
    assert not found[:, :, [1, 2]].any()
    head.columns_ = None
    head.head_ = LinearHead().fit(X, y)
    np.testing.assert_array_equal(contributions(head, X), contributions(head.head_, X))  # type: ignore[arg-type]


def test_contributions__other_heads_have_none() -> None:
    assert contributions(object(), np.zeros((2, 3))) is None
    head = OrdinalHead(LinearHead())
    head.models_, head.classes_ = [object()], np.arange(2)
    assert contributions(head, rows(2)[0]) is None


def test_contributions__of_stopped_trees_are_of_the_trees_that_predict() -> None:
    X, y = rows(2)
    head = BoostedHead(rounds=60).fit(X, y)
    head.model_.set_params(early_stopping_rounds=2)
    head.model_.fit(X[:60], y[:60], eval_set=[(X[60:], y[60:])], verbose=False)
    assert head.model_.best_iteration < 59
    found = contributions(head, X)
    assert found is not None
    np.testing.assert_allclose(found.sum(axis=2)[:, 0], head.model_.predict(X, output_margin=True), atol=1e-4)


def test_contributions__of_three_features_are_the_shapley_values_of_the_trees() -> None:
    """Against the definition: every order of the features, unknown ones followed on both branches by their cover."""
    X, y = rows(2, features=3)
    head = BoostedHead(rounds=4, depth=2, learning_rate=0.5).fit(X, y)
    found = contributions(head, X[:6])
    assert found is not None
    trees = [json.loads(tree) for tree in head.model_.get_booster().get_dump(dump_format="json", with_stats=True)]
    for row in range(6):
        known = {
            subset: sum(_expected(tree, X[row], set(subset)) for tree in trees)
            for size in range(4)
            for subset in itertools.combinations(range(3), size)
        }
        for feature in range(3):
            by_hand = 0.0
            for size in range(3):
                weight = math.factorial(size) * math.factorial(2 - size) / math.factorial(3)
                for subset in itertools.combinations([other for other in range(3) if other != feature], size):
                    by_hand += weight * (known[tuple(sorted((*subset, feature)))] - known[subset])
            assert found[row, 0, feature] == pytest.approx(by_hand, abs=1e-4)


def _expected(node: dict[str, Any], x: np.ndarray, known: set[int]) -> float:
    """Mean of a tree's leaves where only some features are known."""
    if "leaf" in node:
        return float(node["leaf"])
    below = {child["nodeid"]: child for child in node["children"]}
    yes, no = below[node["yes"]], below[node["no"]]
    feature = int(node["split"].removeprefix("f"))
    if feature in known:
        return _expected(yes if x[feature] < np.float32(node["split_condition"]) else no, x, known)
    shares = (yes["cover"] / node["cover"], no["cover"] / node["cover"])
    return shares[0] * _expected(yes, x, known) + shares[1] * _expected(no, x, known)
