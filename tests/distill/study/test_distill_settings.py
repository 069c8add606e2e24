"""What a user may say of signals and settings, and the weights of labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from sonokit.distill.signals.weighted import labels_and_response, read_signals
from sonokit.distill.study.settings import (
    DEFAULT_SIGNALS,
    DistillSettings,
    for_question,
    label_weights,
    read_signal_words,
)
from sonokit.errors import SonokitError


def test_names_with_and_without_weights() -> None:
    assert read_signal_words("labels, response=0.5 ,attention = 2") == {
        "labels": {}, "response": {"weight": 0.5}, "attention": {"weight": 2.0},
    }  # fmt: skip


def test_the_default_is_plain_distillation() -> None:
    said, plain = read_signals(read_signal_words(DEFAULT_SIGNALS)), read_signals(labels_and_response(alpha=0.7))
    assert said.weights == pytest.approx(plain.weights)
    assert said.settings["response"]["temperature"] == plain.settings["response"]["temperature"]


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_file_of_signals(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"signals.{ending}"
    text = {
        "json": json.dumps({"response": {"temperature": 2}, "labels": {}}),
        "yaml": "response:\n  temperature: 2\nlabels:\n",
    }
    file.write_text(text[ending])
    assert read_signal_words(str(file)) == {"response": {"temperature": 2}, "labels": {}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("response=much", "'response=much' is no number"),
        ("response,response=2", "named twice"),
        ("heat_map_targets", "of landmarks"),
        ("respons", "no signal 'respons'"),
        ("", "no signal is named"),
        ("nowhere.yaml", "no readable file"),
    ],
)
def test_words_that_are_refused(text: str, told: str) -> None:
    with pytest.raises(SonokitError, match=told):
        read_signal_words(text)


def test_files_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    for content, told in (("{", "neither JSON nor YAML"), ("[1]", "must hold a signal a key")):
        file.write_text(content)
        with pytest.raises(SonokitError, match=told):
            read_signal_words(str(file))


def test_labels_and_response_learn_what_the_question_is_and_what_is_said_stays() -> None:
    given = {"labels": {}, "response": {"weight": 2, "kind": "classes"}, "attention": {}}
    full = for_question(given, "several", [1.0, 3.0])
    assert full == {
        "labels": {"kind": "several", "weights": [1.0, 3.0]}, "response": {"weight": 2, "kind": "classes"}, "attention": {},
    }  # fmt: skip
    assert given["labels"] == {}


def test_weights_of_classes_by_hand() -> None:
    # 6 clips, 4 of class 0, 2 of class 1, none of class 2: 6 / (4 · 2), 6 / (2 · 2), 0
    assert label_weights(np.array([0, 0, 1, 0, 1, 0]), "classes", 3) == [0.75, 1.5, 0.0]


def test_weights_of_findings_by_hand() -> None:
    truth = np.array([[1, 0, 1], [0, 0, np.nan], [0, 0, 1], [0, np.nan, 1]], dtype=np.float32)
    assert label_weights(truth, "several", 3) == [3.0, 1.0, 1.0]  # negatives a positive; a side is missing in the others


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"folds": 1}, "folds must be 0"),
        ({"teacher_size": 8}, "teacher_size must be at least"),
        ({"augment": "wild"}, "augment is ultrasound"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0"),
        ({"size": 64, "teacher_size": 63}, "teacher_size 63 is smaller than size 64: .* leave teacher_size out"),
    ],
)
def test_settings_that_are_refused(choice: dict[str, object], told: str) -> None:
    with pytest.raises(SonokitError, match=told):
        DistillSettings(**choice)
