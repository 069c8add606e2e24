import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR, LinearSVC
from sonokit.errors import SonokitError
from sonokit.experts.heads import ChosenHead, head_name, load_head, make_head, needs_trust
from sonokit.experts.heads.own import OwnHead, estimator_from_name


class Prior(ClassifierMixin, BaseEstimator):
    """A type from outside scikit-learn, loaded only where it is named."""

    constructed = 0

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Prior":
        self.classes_, counts = np.unique(y, return_counts=True)
        self.shares_ = counts / len(y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return np.tile(self.shares_, (len(X), 1))

    def __setstate__(self, state: Any) -> None:
        Prior.constructed += 1
        self.__dict__.update(state)


def drawn(rows: int = 45) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = np.arange(rows) % 3
    return (np.eye(4)[codes] + rng.normal(0, 0.6, (rows, 4))).astype(np.float32), codes, np.arange(rows) // 3


def test_own__is_the_users_estimator_with_our_seed_and_codes() -> None:
    inputs, codes, _ = drawn()
    given = RandomForestClassifier(5)
    head = make_head((given,), "classification", seed=7).fit(inputs, codes + 2)
    expected = RandomForestClassifier(5, random_state=7).fit(inputs, codes)
    assert np.array_equal(head.predict_proba(inputs), expected.predict_proba(inputs))
    assert head.classes_.tolist() == [2, 3, 4]
    assert set(head.predict(inputs)) == {2, 3, 4}
    assert not hasattr(given, "estimators_")
    assert given.random_state is None


def test_own__a_seed_of_the_user_stays() -> None:
    inputs, codes, _ = drawn()
    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=5))
    head = OwnHead(pipeline, seed=1).fit(inputs, codes)
    assert head.model_[-1].random_state == 5


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_own__comes_back_from_disk_the_same(task: Any, tmp_path: Path) -> None:
    inputs, codes, _ = drawn()
    inside = SVR() if task == "regression" else LogisticRegression()
    head = make_head((make_pipeline(StandardScaler(), inside),), task).fit(inputs, codes)
    head.save(tmp_path)
    again = load_head(tmp_path)
    assert np.array_equal(again.predict(inputs), head.predict(inputs))
    assert head_name(again) == "Pipeline"


def test_own__a_forest_is_loaded_where_its_trees_are_trusted(tmp_path: Path) -> None:
    """skops does not trust scikit-learn's trees, whose node numbers nobody checks."""
    inputs, codes, _ = drawn()
    head = make_head((RandomForestClassifier(3),), "classification").fit(inputs, codes)
    head.save(tmp_path)
    with pytest.raises(SonokitError, match=r"sklearn\.tree\._tree\.Tree"):
        load_head(tmp_path)
    again = load_head(tmp_path, trusted=("sklearn.tree._tree.Tree",))
    assert np.array_equal(again.predict_proba(inputs), head.predict_proba(inputs))


def test_own__a_foreign_type_is_loaded_only_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, codes, _ = drawn()
    head = make_head((Prior(),), "classification").fit(inputs, codes)
    head.save(tmp_path)
    name = f"{Prior.__module__}.Prior"
    Prior.constructed = 0
    with pytest.raises(SonokitError, match="Prior"):
        load_head(tmp_path)
    with pytest.raises(SonokitError, match="Prior"):
        load_head(tmp_path, trusted=("another.Prior",))
    assert Prior.constructed == 0
    monkeypatch.setitem(sys.modules, Prior.__module__, sys.modules[__name__])
    again = load_head(tmp_path, trusted=(name,))
    assert np.array_equal(again.predict_proba(inputs), head.predict_proba(inputs))
    assert Prior.constructed == 1


def test_own__what_cannot_do_the_task_is_refused_with_a_remedy() -> None:
    with pytest.raises(SonokitError, match="CalibratedClassifierCV"):
        make_head((LinearSVC(),), "classification")
    with pytest.raises(SonokitError, match="take a regressor"):
        make_head((RandomForestClassifier(),), "regression")
    with pytest.raises(SonokitError, match="gives no probabilities"):
        make_head((Ridge(),), "ordinal")
    with pytest.raises(SonokitError, match="no scikit-learn estimator"):
        make_head((object(),), "classification")


def test_own__by_name_with_plain_settings() -> None:
    text = "sklearn.ensemble:RandomForestClassifier(n_estimators=4, class_weight={0: 1, 1: 2})"
    found = estimator_from_name(text)
    assert (found.n_estimators, found.class_weight) == (4, {0: 1, 1: 2})
    assert isinstance(estimator_from_name("sklearn.linear_model:Ridge"), Ridge)
    assert head_name(make_head((text,), "classification")) == text


@pytest.mark.parametrize(
    "text",
    [
        "sklearn.ensemble:Forest",
        "no_such_module:Class",
        "sklearn.linear_model:Ridge(alpha=print())",
        "sklearn.linear_model:Ridge(1.0)",
        "sklearn.linear_model:Ridge(beta=1.0)",
        "sklearn.linear_model:Ridge().fit",
        "sklearn.linear_model:",
    ],
)
def test_own__a_name_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SonokitError, match=r"package\.module:Class"):
        make_head((text,), "regression")


def test_own__stands_beside_ours_in_a_choice() -> None:
    inputs, codes, patients = drawn()
    head = make_head(("linear", KNeighborsClassifier(), KNeighborsClassifier(1)), "classification").fit(inputs, codes, patients)
    assert isinstance(head, ChosenHead)
    names = ["linear", "KNeighborsClassifier", "KNeighborsClassifier #2"]
    assert [trial["head"] for trial in head.trials_] == names


def test_own__a_grouped_search_of_the_users_is_told_the_patients() -> None:
    inputs, codes, patients = drawn()
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=GroupKFold(3))
    head = OwnHead(search).fit(inputs, codes, patients)
    expected = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=GroupKFold(3)).fit(inputs, codes, groups=patients)
    assert head.model_.cv_results_["mean_test_score"].tolist() == expected.cv_results_["mean_test_score"].tolist()


def test_own__soft_targets_are_weights_of_rows() -> None:
    inputs, codes, _ = drawn()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8))
    hard = OwnHead(pipeline).fit(inputs, codes).predict_proba(inputs)
    np.testing.assert_allclose(OwnHead(pipeline).fit(inputs, np.eye(3)[codes]).predict_proba(inputs), hard, atol=1e-6)
    blurred = OwnHead(pipeline).fit(inputs, 0.5 * np.eye(3)[codes] + 0.5 / 3).predict_proba(inputs)
    assert blurred.max(axis=1).mean() < hard.max(axis=1).mean()
    with pytest.raises(SonokitError, match="soft targets"):
        OwnHead(KNeighborsClassifier()).fit(inputs, np.eye(3)[codes])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sklearn.linear_model:LogisticRegression(C=-1)", "'C' parameter"),
        ('sklearn.ensemble:RandomForestClassifier(n_estimators="x")', "'n_estimators' parameter"),
        ("sklearn.naive_bayes:MultinomialNB", "Negative values"),
        ("sklearn.neighbors:KNeighborsClassifier(n_neighbors=500)", "n_neighbors"),
    ],
)
def test_own__what_the_estimator_refuses_is_told_in_one_line(text: str, says: str) -> None:
    inputs, codes, _ = drawn()
    head = make_head((text,), "classification")
    with pytest.raises(SonokitError, match=says) as told:
        head.fit(inputs, codes).predict(inputs)
    assert str(told.value).startswith(f"--head {text}: ")
    assert "\n" not in str(told.value)


def test_needs_trust__names_what_loading_will_ask_for() -> None:
    inputs, codes, patients = drawn()
    for heads in ((RandomForestClassifier(2),), (RandomForestClassifier(2), RandomForestClassifier(3))):
        head = make_head(heads, "classification").fit(inputs, codes, patients)
        assert needs_trust(head) == ("sklearn.tree._tree.Tree",)
    assert needs_trust(make_head((RandomForestClassifier(2),), "ordinal").fit(inputs, codes)) == ("sklearn.tree._tree.Tree",)
    assert needs_trust(make_head((Prior(),), "classification").fit(inputs, codes)) == (f"{Prior.__module__}.Prior",)
    assert needs_trust(make_head((LogisticRegression(),), "classification").fit(inputs, codes)) == ()
    assert needs_trust(make_head(("linear",), "classification").fit(inputs, codes)) == ()
