import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sonokit.clips.splits import Splits, make_splits
from sonokit.errors import SonokitError
from sonokit.evaluation.biomarker_probe import biomarker_probe, macro_auroc
from sonokit.evaluation.biomarker_scores import compare_macro_auroc

PATIENTS = np.array([f"p{k // 2:02d}" for k in range(40)])
IDS = np.array([f"c{k:02d}" for k in range(40)])
RANDOM = np.random.default_rng(0)
FIRST = np.repeat(np.arange(20) % 2, 2).astype(float)
SECOND = np.repeat(np.arange(20) // 2 % 2, 2).astype(float)
FEATURES = RANDOM.normal(size=(40, 6)) + np.stack([FIRST, SECOND, *np.zeros((4, 40))], axis=1)


def table() -> pd.DataFrame:
    holes = FIRST.copy()
    holes[[3, 8, 20, 33]] = np.nan
    return pd.DataFrame({"clip_id": IDS, "patient_id": PATIENTS, "first": holes, "second": SECOND, "never": 0.0})


def splits(repeats: int = 2) -> Splits:
    return make_splits(table(), PATIENTS, label=None, patient_column="patient_id", folds=4, repeats=repeats)


def test_macro_auroc__equals_a_loop_by_hand_over_what_is_known() -> None:
    found, divided = macro_auroc(FEATURES, table(), ("first", "second"), splits()), splits()
    expected = []
    for name in ("first", "second"):
        labels = table()[name].to_numpy()
        each = []
        for repeat in range(2):
            probabilities = np.full(40, np.nan)
            for fold in (fold for fold in divided.folds if fold.repeat == repeat):
                test = np.isin(IDS, fold.test)
                train = ~test & ~np.isnan(labels)
                model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
                probabilities[test] = model.fit(FEATURES[train], labels[train]).predict_proba(FEATURES[test])[:, 1]
            known = ~np.isnan(labels)
            each.append(roc_auc_score(labels[known], probabilities[known]))
        assert found["biomarkers"][name]["auroc"]["value"] == pytest.approx(np.mean(each), abs=1e-9)
        expected.append(np.mean(each))
    assert found["macro_auroc"]["value"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert found["macro_auroc"]["low"] < found["macro_auroc"]["value"] < found["macro_auroc"]["high"]


def test_macro_auroc__what_nobody_has_is_left_out_with_a_reason() -> None:
    with_it = macro_auroc(FEATURES, table(), ("first", "never"), splits())
    without = macro_auroc(FEATURES, table(), ("first",), splits())
    assert with_it["biomarkers"]["never"]["reason"] == "no positive clip"
    assert with_it["macro_auroc"] == without["macro_auroc"]


def test_compare_macro_auroc__value_is_the_difference_and_nothing_differs_from_itself() -> None:
    good = biomarker_probe(FEATURES, table(), ("first", "second"), splits())
    poor = biomarker_probe(RANDOM.normal(size=(40, 6)), table(), ("first", "second"), splits())
    values = [macro_auroc(f, table(), ("first", "second"), splits())["macro_auroc"]["value"] for f in (FEATURES,)]
    difference, none = compare_macro_auroc(good, poor), compare_macro_auroc(good, good)
    poor_value = np.mean([np.mean([_auroc(poor, r, c) for r in range(2)]) for c in range(2)])
    assert difference.value == pytest.approx(values[0] - poor_value, abs=1e-9)
    assert (none.value, none.low, none.high) == (0, 0, 0)


def test_biomarker_probe__a_cell_that_is_no_biomarker_is_named() -> None:
    with pytest.raises(SonokitError, match="in first there is 2"):
        biomarker_probe(FEATURES, table().assign(first=[2.0] + [1.0] * 39), ("first",), splits())
    with pytest.raises(SonokitError, match="no column 'third'"):
        biomarker_probe(FEATURES, table(), ("third",), splits())


def _auroc(outcome: object, repeat: int, column: int) -> float:
    labels = outcome.labels[:, column]  # type: ignore[attr-defined]
    known = ~np.isnan(labels)
    return roc_auc_score(labels[known], outcome.probabilities[repeat, known, column])  # type: ignore[attr-defined]
