import numpy as np
from sonokit.evaluation.by_patient import average_by_patient
from sonokit.evaluation.predictions import Predictions


def test_average_by_patient__by_hand_and_a_patient_of_two_labels_is_left_out() -> None:
    patients = np.array(["p2", "p1", "p2", "p3", "p3"])
    values = np.array([[[0.2, 0.8], [1.0, 0.0], [0.4, 0.6], [0.5, 0.5], [0.5, 0.5]]])
    truth = np.array([1, 0, 1, 0, 1])
    found = average_by_patient(Predictions("classification", ("a", "b"), np.array(list("vwxyz")), patients, truth, values))
    assert found.clip_ids.tolist() == found.patients.tolist() == ["p1", "p2"]
    assert found.truth.tolist() == [0, 1]
    np.testing.assert_allclose(found.values, [[[1.0, 0.0], [0.3, 0.7]]])


def test_average_by_patient__numbers_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    patients = rng.choice([f"p{k}" for k in range(9)], 40)
    values = rng.normal(size=(3, 40))
    truth = np.array([float(name[1:]) for name in patients])
    found = average_by_patient(Predictions("regression", (), np.arange(40).astype(str), patients, truth, values))
    for row, name in enumerate(found.patients):
        np.testing.assert_allclose(found.values[:, row], values[:, patients == name].mean(axis=1), atol=1e-7)
        assert found.truth[row] == float(name[1:])
