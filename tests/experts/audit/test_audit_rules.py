from dataclasses import replace

import numpy as np
import pytest
from sonokit.evaluation.bootstrap import Interval
from sonokit.evaluation.predictions import Predictions
from sonokit.experts.audit.association import Association
from sonokit.experts.audit.finding import Finding, Level
from sonokit.experts.audit.label_scores import LabelScores
from sonokit.experts.audit.ranking import Ranking
from sonokit.experts.audit.readable import Readable
from sonokit.experts.audit.rules import (
    judge_column,
    judge_label,
    judge_metadata,
    judge_random_init,
    judge_sites_left_out,
    judge_within_sites,
)
from sonokit.experts.audit.verdict import closing, overall

UP, OPEN, DOWN = Interval(0.2, 0.1, 0.3), Interval(0.1, -0.1, 0.3), Interval(-0.2, -0.3, -0.1)
SCORES = LabelScores(
    predictions=Predictions(
        "classification", ("a", "b"), np.array(["c"]), np.array(["p"]), np.array([0]), np.array([[[1.0, 0.0]]])
    ),
    scores={"balanced_accuracy": Interval(0.8, 0.7, 0.9)},
    floors=[],
    over_most_frequent=UP,
    over_metadata=UP,
    metadata_over_most_frequent=OPEN,
    over_random_init=UP,
    over_sites_left_out=OPEN,
    sites_left_out_over_most_frequent=UP,
    ranking=Ranking(Interval(0.8, 0.7, 0.9), Interval(0.8, 0.6, 0.9), 50, 3),
    level=0.99,
)


def column(v: float, p: float, read_p: float | None) -> Level:
    tells = Association(v, v, 0.2, p, 30, ("x", "y"), np.full((2, 2), 7.5))
    read = "nothing to tell apart" if read_p is None else Readable(UP, 0.5, read_p, ("x", "y"), 30, 60)
    corrected = {"site and label": p} | ({} if read_p is None else {"site from embedding": read_p})
    return judge_column("site", "diagnosis", tells, read, corrected).level


@pytest.mark.parametrize(
    ("v", "p", "read_p", "level"),
    [
        (0.5, 0.049, 0.049, "stop"),
        (0.5, 0.049, None, "stop"),  # whether the embedding tells it is not known: to be on the safe side
        (0.5, 0.049, 0.05, "look"),
        (0.49, 0.001, 0.001, "look"),
        (0.5, 0.05, 0.001, "look"),
        (0.49, 0.05, 0.001, "fine"),
    ],
)
def test_judge_column(v: float, p: float, read_p: float | None, level: Level) -> None:
    assert column(v, p, read_p) == level


@pytest.mark.parametrize(
    ("file", "gain", "level"), [(UP, OPEN, "stop"), (UP, DOWN, "stop"), (UP, UP, "look"), (OPEN, OPEN, "fine")]
)
def test_judge_metadata(file: Interval, gain: Interval, level: Level) -> None:
    assert judge_metadata(replace(SCORES, metadata_over_most_frequent=file, over_metadata=gain)).level == level


@pytest.mark.parametrize(
    ("gap", "rest", "head", "level"),
    [
        (UP, OPEN, UP, "stop"),
        (UP, UP, UP, "look"),
        (OPEN, OPEN, UP, "look"),
        (OPEN, UP, UP, "fine"),
        (OPEN, OPEN, OPEN, "fine"),  # nothing was learnt, so nothing can fall
    ],
)
def test_judge_sites_left_out(gap: Interval, rest: Interval, head: Interval, level: Level) -> None:
    scores = replace(SCORES, over_sites_left_out=gap, sites_left_out_over_most_frequent=rest, over_most_frequent=head)
    assert judge_sites_left_out(scores).level == level


def test_judge_scores__label_random_init_within_sites() -> None:
    assert judge_label(SCORES).level == "fine"
    assert judge_label(replace(SCORES, over_most_frequent=OPEN)).level == "look"
    assert judge_label(SCORES, p=0.05).level == "look"  # a p-value goes before the interval
    assert judge_label(replace(SCORES, over_most_frequent=OPEN), p=0.049).level == "fine"
    assert judge_random_init(SCORES).level == "fine"
    assert judge_random_init(replace(SCORES, over_random_init=OPEN)).level == "look"
    assert judge_random_init(replace(SCORES, over_random_init="no floor/ beside the store")).level == "not measured"
    assert judge_within_sites(SCORES).level == "fine"
    lost = Ranking(Interval(0.8, 0.7, 0.9), Interval(0.55, 0.5, 0.7), 50, 3)
    assert judge_within_sites(replace(SCORES, ranking=lost)).level == "look"


def found(**levels: Level) -> list[Finding]:
    return [Finding(name, name, level, "because") for name, level in levels.items()]


def test_overall__the_gravest_counts() -> None:
    assert overall(found(a="fine", b="stop", c="look", d="not measured")) == "stop"
    assert overall(found(a="fine", c="look")) == "look"
    assert overall(found(a="fine", d="not measured")) == "fine"
    assert overall(found(d="not measured")) == "not measured"


def test_closing__says_what_stops() -> None:
    assert closing(found(site="stop", frame_rate="stop", metadata="stop"), "diagnosis", 30).startswith(
        "The site and the frame rate tell the diagnosis: a score on these rows says little"
    )
    both = closing(found(splits="stop", site="stop"), "diagnosis", 30)
    assert "no score on these rows counts" in both
    assert "The site tells the diagnosis" in both
    assert "the pictures are not shown to tell the diagnosis" in closing(found(metadata="stop"), "diagnosis", 30)
    assert closing(found(site="look"), "diagnosis", 30).startswith("Nothing here forbids a score")
    assert "30 patients show strong effects only" in closing(found(site="fine"), "diagnosis", 30)
