import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.evaluation.out_of_fold import FoldRows
from sonokit.evaluation.scores import Task
from sonokit.experts.folder import Expert
from sonokit.experts.heads.boosted import BoostedHead
from sonokit.experts.heads.contributions import contributions
from sonokit.experts.heads.linear import LinearHead
from sonokit.experts.heads.ordinal import OrdinalHead
from sonokit.experts.question import Question
from sonokit.experts.recipes import ClipFeatures
from sonokit.experts.report.cases import NEAR, OVER, RIGHT, UNDER, UNSURE, WRONG, chosen_cases
from sonokit.experts.report.contribution_figures import contribution_pictures, groups_figure
from sonokit.experts.report.contributions import ContributionsCollector
from sonokit.experts.report.feature_groups import group_of, output_names
from sonokit.experts.report.why import case_contributions
from sonokit.features.store import StoreHeader

NAMES = (
    "mean of dimension 0",
    "spread of dimension 0",
    "mean of b_lines",
    "mean of a_lines",
    "maximum of b_lines",
    "maximum of a_lines",
)


class Features:
    """Two dimensions that say nothing, B-lines that tell the classes, A-lines that go with the first one."""

    names = NAMES

    def __init__(self, codes: np.ndarray) -> None:
        rng = np.random.default_rng(0)
        noise = rng.normal(size=(len(codes), 2))
        signs = np.stack([0.3 * codes, 0.5 - 0.2 * codes, 0.3 * codes + 0.1, 0.6 - 0.2 * codes], axis=1)
        self.X = np.concatenate([noise, signs + rng.normal(0, 0.1, signs.shape)], axis=1).astype(np.float32)

    def of(self, fold: FoldRows) -> np.ndarray:
        return self.X


def asked(
    task: Task = "classification", classes: tuple[str, ...] = ("normal", "covid19", "pneumonia")
) -> tuple[Question, Features]:
    codes = np.arange(60) // 2 % 3
    table = pd.DataFrame({"clip_id": [f"c{k:02d}" for k in range(60)], "site": pd.NA})
    patients = (np.arange(60) // 2).astype(str)
    truth = 100.0 * codes if task == "regression" else np.minimum(codes, max(1, len(classes) - 1))
    features = Features(codes)
    return Question("finding", task, classes, table, truth, patients, "patient_id", ()), features


def folds(repeats: int = 2) -> list[FoldRows]:
    part = np.arange(60) // 2 % 4
    return [
        FoldRows(4 * repeat + k, repeat, np.flatnonzero(part != k), np.flatnonzero(part == k))
        for repeat in range(repeats)
        for k in range(4)
    ]


def collected(question: Question, features: Features, make: Any) -> tuple[ContributionsCollector, dict[int, Any]]:
    collector, heads = ContributionsCollector(question, features), {}
    for fold in folds():
        heads[fold.index] = make().fit(features.X[fold.train], question.truth[fold.train])
        collector.note(fold, heads[fold.index])
    return collector, heads


def test_group_of__biomarkers_and_the_embedding() -> None:
    found = [group_of(name) for name in (*NAMES, "minimum of dimension 7", "age")]
    assert found == ["embedding", "embedding", "b_lines", "a_lines", "b_lines", "a_lines", "embedding", "age"]
    assert output_names("x", "classification", ("no", "yes")) == ("yes",)
    assert output_names("x", "ordinal", ("0", "1", "2")) == ("1 or more", "2")
    assert output_names("x", "regression", ()) == ("x",)


@pytest.mark.parametrize("make", [LinearHead, lambda: BoostedHead(rounds=10)])
def test_collector__explains_each_clip_by_the_head_that_had_not_met_it(make: Any) -> None:
    question, features = asked()
    collector, heads = collected(question, features, make)
    found = collector.entries(draws=50)
    assert found is not None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    by_hand = np.zeros((60, 3, 7))
    for fold in folds(repeats=1):
        told = contributions(heads[fold.index], features.X[fold.test])
        assert told is not None
        by_hand[fold.test] = told - told.mean(axis=1, keepdims=True)
    groups = {group["name"]: group for group in found["groups"]}
    assert found["groups"][0]["name"] == "b_lines"
    for name, columns in {"embedding": [0, 1], "b_lines": [2, 4], "a_lines": [3, 5]}.items():
        for code, output in enumerate(found["outputs"]):
            size = np.abs(by_hand[:, code, columns].sum(axis=1)).mean()
            assert groups[name]["outputs"][output]["size"]["value"] == pytest.approx(size)
            assert groups[name]["features"] == 2
    assert groups["b_lines"]["outputs"]["pneumonia"]["direction"] > 0.5
    assert groups["b_lines"]["outputs"]["normal"]["direction"] < -0.5
    assert groups["embedding"]["outputs"]["normal"]["direction"] is None
    top = found["features"][0]
    assert top["sizes"]["normal"] == pytest.approx(np.abs(by_hand[:, 0, NAMES.index(top["name"])]).mean())
    assert (found["clips"], found["patients"], found["of_clips"], found["biomarkers"]) == (60, 30, 60, 2)
    case = found["cases"][0]
    assert sum(part["contribution"] for part in case["parts"]) + case["others"] + case["constant"] == pytest.approx(
        case["margin"]
    )
    row, code = int(case["clip_id"][1:]), found["outputs"].index(case["output"])
    assert case["margin"] == pytest.approx(by_hand[row, code].sum())
    value = next(part["value"] for part in case["parts"] if part["name"] == "b_lines")
    assert value == f"mean {features.X[row, 2]:.2f}, maximum {features.X[row, 4]:.2f}"


@pytest.mark.parametrize(
    ("task", "classes", "outputs"),
    [
        ("classification", ("normal", "covid19"), ["covid19"]),
        ("ordinal", ("0", "1", "2"), ["1 or more", "2"]),
        ("regression", (), ["finding"]),
    ],
)
def test_collector__other_tasks_and_their_pictures(task: Task, classes: tuple[str, ...], outputs: list[str]) -> None:
    question, features = asked(task, classes)

    def make() -> Any:
        head = LinearHead(task="regression" if task == "regression" else "classification")
        return OrdinalHead(head) if task == "ordinal" else head

    collector, _ = collected(question, features, make)
    found = collector.entries(draws=20)
    assert found is not None
    assert found["outputs"] == outputs
    assert found["unit"] == ("finding" if task == "regression" else "log-odds")
    pictures = contribution_pictures(found)
    assert len(pictures) == len(outputs) + (1 if task == "regression" else len(classes))
    if task == "ordinal":
        assert {case["output"] for case in found["cases"]} == {"a higher finding"}
    words = [text.get_text() for text in groups_figure(found, outputs[0]).axes[0].get_yticklabels()]
    assert "b lines ↑" in words
    assert "a lines ↓" in words


def test_collector__nothing_to_explain() -> None:
    question, features = asked()
    collector = ContributionsCollector(question, features)
    collector.note(folds()[0], object())
    assert collector.entries() is None
    assert contribution_pictures(None) == []


def test_collector__a_fold_that_lacks_a_class_is_counted_and_left_out() -> None:
    question, features = asked()
    collector = ContributionsCollector(question, features)
    two = question.truth < 2
    for fold in folds(repeats=1)[:2]:
        rows = fold.train[two[fold.train]] if fold.index == 0 else fold.train
        collector.note(fold, LinearHead().fit(features.X[rows], question.truth[rows]))
    found = collector.entries(draws=10)
    assert found is not None
    tested = folds()[0].test
    assert (found["without"], found["clips"]) == ({"linear": len(tested)}, len(folds()[1].test))


def test_chosen_cases__by_rule_each_once() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1])
    p = np.array([0.1, 0.45, 0.9, 0.48, 0.8, 0.6])  # of class 1
    values = np.stack([1 - p, p], axis=1)
    found = list(chosen_cases("classification", ("a", "b"), truth, values, np.array(list("uvwxyz"))))
    assert found == [(0, RIGHT), (2, WRONG), (3, UNSURE), (4, RIGHT), (5, UNSURE)]


def test_chosen_cases__of_numbers() -> None:
    truth, values = np.array([10.0, 20.0, 30.0, 40.0]), np.array([10.5, 29.0, 29.9, 32.0])
    found = list(chosen_cases("regression", (), truth, values, np.array(list("abcd"))))
    assert found == [(2, NEAR), (1, OVER), (3, UNDER)]


def expert(head: Any, task: Task, classes: tuple[str, ...]) -> Expert:
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=1, dtype="float32")
    return Expert("finding", task, classes, "mean_std+biomarkers", header, head)


def test_case_contributions__are_the_largest_towards_the_answer() -> None:
    question, features = asked()
    head = BoostedHead(rounds=10).fit(features.X, question.truth)
    clips = ClipFeatures(question.clip_ids, features.X, NAMES)
    found = case_contributions(expert(head, "classification", question.classes), clips, 2)
    told = contributions(head, features.X)
    assert told is not None
    answer = head.predict_proba(features.X).argmax(axis=1)
    parts = (told - told.mean(axis=1, keepdims=True))[np.arange(60), answer]
    named = {"embedding": parts[:, 0] + parts[:, 1]} | {NAMES[f]: parts[:, f] for f in range(2, 6)}
    for row in range(60):
        ordered = sorted(named, key=lambda name: -abs(named[name][row]))[:2]
        assert found.iloc[row].tolist() == [f"{name} {named[name][row]:+.2f}" for name in ordered]
    assert list(found) == ["why_1", "why_2"]


def test_case_contributions__more_than_there_are_and_none_at_all() -> None:
    question, features = asked("regression", ())
    head = LinearHead(task="regression").fit(features.X, question.truth)
    clips = ClipFeatures(question.clip_ids, features.X, NAMES)
    found = case_contributions(expert(head, "regression", ()), clips, 7)
    assert found.shape == (60, 7)
    assert (found[["why_6", "why_7"]] == "").all(axis=None)
    assert not (found["why_5"] == "").any()
    with pytest.raises(SonokitError, match="one reason or more"):
        case_contributions(expert(head, "regression", ()), clips, 0)

    class Own:
        name = "own"

    with pytest.raises(SonokitError, match="--head linear or xgboost"):
        case_contributions(expert(Own(), "regression", ()), clips, 1)
