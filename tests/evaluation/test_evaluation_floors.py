import numpy as np
import pandas as pd
import pytest
from sonokit.evaluation.floors import MetadataForest, MostFrequent, metadata_features


def test_most_frequent__predicts_it_whatever_the_features() -> None:
    floor = MostFrequent().fit(np.zeros((5, 1)), np.array([0, 2, 2, 2, 1]))
    assert floor.predict_proba(np.ones((2, 1))).tolist() == [[0, 0, 1]] * 2
    assert floor.predict(np.ones((2, 1))).tolist() == [2, 2]


def test_most_frequent__regression_predicts_the_mean() -> None:
    assert MostFrequent("regression").fit(np.zeros((3, 1)), np.array([1.0, 2.0, 6.0])).predict(np.zeros((1, 1)))[0] == 3


def test_metadata_features__containers_and_rate_and_nothing_else() -> None:
    table = pd.DataFrame({"container": ["mp4", None, "avi"], "frame_rate": [25.0, np.nan, 30.0], "diagnosis": ["a", "b", "c"]})
    assert metadata_features(table).tolist() == [[0, 0, 1, 25], [1, 0, 0, -1], [0, 1, 0, 30]]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_metadata_forest__finds_a_label_that_the_container_gives_away(task: str) -> None:
    truth = np.tile([0, 1], 20)
    table = pd.DataFrame({"container": np.where(truth == 1, "avi", "mp4"), "frame_rate": np.full(40, 25.0)})
    inputs = metadata_features(table)
    floor = MetadataForest(task).fit(inputs[:30], truth[:30])
    np.testing.assert_allclose(floor.predict(inputs[30:]), truth[30:], atol=1e-9)


def test_most_frequent__of_given_labels_is_one_constant_whatever_the_fold() -> None:
    everyone = np.array([0, 1, 1, 2])
    for side in ([0, 0, 1], [2, 2, 1], [0, 1, 2]):
        told = MostFrequent(of=everyone).fit(np.zeros((3, 1)), np.array(side)).predict_proba(np.zeros((2, 1)))
        np.testing.assert_array_equal(told, [[0, 1, 0]] * 2)
