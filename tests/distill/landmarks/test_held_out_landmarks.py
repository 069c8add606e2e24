import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sonokit.distill.landmarks.distilling import LandmarkSettings
from sonokit.distill.landmarks.folder import load_landmark_model, predict_landmarks
from sonokit.distill.landmarks.held_out import distil_landmarks, held_out_sides
from sonokit.distill.landmarks.landmark_files import read_landmarks_csv
from sonokit.distill.landmarks.landmarks import Landmarks
from sonokit.distill.landmarks.metrics import radial_errors
from sonokit.errors import SonokitError

SMALL = LandmarkSettings(
    size=(48, 40),
    teacher="micro_25k",
    teacher_widths={4: 8, 8: 8, 16: 8},
    student="micro-10k",
    student_widths={4: 8, 8: 8, 16: 8},
    teacher_epochs=3,
    epochs=4,
    looks=2,
    strides=(8,),
)


def _set(n: int = 8) -> tuple[list[np.ndarray], Landmarks]:
    rng = np.random.default_rng(0)
    points = rng.uniform([10, 10], [38, 30], (n, 1, 2))
    columns, rows = np.meshgrid(np.arange(48), np.arange(40))
    images = [np.round(250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)).astype(np.uint8) for x, y in points[:, 0]]
    names = tuple(f"{k}.png" for k in range(n))
    sizes = np.tile([48.0, 40.0], (n, 1))
    patients = np.array([f"p{k // 2}" for k in range(n)])
    return images, Landmarks(names, ("tip",), points, np.full((n, 2), 0.5), sizes, patients)


def test_held_out_sides__keep_patients_whole() -> None:
    _, landmarks = _set()
    sides = held_out_sides(landmarks, None, 4)
    assert sorted(np.concatenate([tested for _, tested in sides]).tolist()) == list(range(8))
    assert all(not set(landmarks.patients[a]) & set(landmarks.patients[b]) for a, b in sides)
    ((rows, tested),) = held_out_sides(landmarks, ["6.png", "7.png"], 5)
    assert (rows.tolist(), tested.tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7])
    with pytest.raises(SonokitError, match="p3 has images on both sides"):
        held_out_sides(landmarks, ["6.png"], 5)
    with pytest.raises(SonokitError, match=r"'9\.png' has no landmarks"):
        held_out_sides(landmarks, ["9.png"], 5)
    with pytest.raises(SonokitError, match="4 patients cannot be divided into 5 folds"):
        held_out_sides(landmarks, None, 5)


def test_distil_landmarks__scores_the_student_that_it_writes(tmp_path: Path) -> None:
    images, landmarks = _set()
    report = distil_landmarks(images, landmarks, tmp_path, SMALL, test=["6.png", "7.png"])
    assert report == json.loads((tmp_path / "report.json").read_text())
    student = load_landmark_model(tmp_path / "student")
    found = predict_landmarks(student, {name: images[int(name[0])] for name in ("6.png", "7.png")})
    errors = radial_errors(found.points, landmarks.points[6:], landmarks.spacing[6:])  # type: ignore[index]
    assert report["scores"]["student"]["mre"] == pytest.approx(errors.mean())
    assert report["unit"] == "mm"
    written, _ = read_landmarks_csv(tmp_path / "predicted.csv")
    np.testing.assert_allclose(written.points, found.points)
    assert set(student.provenance["training_images"]) == {f"{k}.png" for k in range(6)}
    page = (tmp_path / "report.md").read_text()
    assert "student − teacher" in page
    assert ("stayed blank" in page) == bool(report["never_found"])
    teacher = load_landmark_model(tmp_path / "teacher")
    with pytest.raises(SonokitError, match="trained on 6 of the test images"):
        distil_landmarks(images, landmarks, tmp_path / "again", SMALL, teacher=teacher, folds=4)


def test_distil_landmarks__in_folds_writes_a_student_of_all_images_and_takes_pixels(tmp_path: Path) -> None:
    images, landmarks = _set(4)
    report = distil_landmarks(images, replace(landmarks, spacing=None), tmp_path, SMALL, folds=2)
    assert report["unit"] == "px"
    assert report["scores"]["student"]["landmarks"] == 4
    assert set(load_landmark_model(tmp_path / "student").provenance["training_images"]) == set(landmarks.images)
