"""Distil on one side, score on the other: with a given list of test images, or in folds grouped by patient."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold

from ...atomic import write_json, write_text
from ...errors import SonokitError
from ..students.profile import profile_student
from .distilling import LandmarkSettings, as_model, distil_from, image_fingerprints, train_landmark_teacher
from .folder import LandmarkModel, predict_landmarks, save_landmark_model
from .landmark_files import write_landmarks_csv
from .landmarks import Landmarks
from .metrics import RADII_MM, LandmarkScores, landmark_scores, paired_differences, radial_errors, score_intervals
from .network import LandmarkNetwork
from .predict import landmark_views, never_found, predicted_points

Side = tuple[np.ndarray, np.ndarray]
"""Rows to train on, rows to test on."""


def distil_landmarks(
    images: Sequence[np.ndarray],
    landmarks: Landmarks,
    out: Path,
    settings: LandmarkSettings | None = None,
    *,
    teacher: LandmarkModel | None = None,
    test: Sequence[str] | None = None,
    folds: int = 5,
    progress: bool = False,
) -> dict[str, Any]:
    """Train teacher and student, score both on images that neither has seen, and write the student.

    With a test list the student that is written is the one that was scored. In folds each one's teacher and student are trained
    on the other patients' images; the student that is written is trained by the same settings on all images.

    Args:
        images: Grey, uint8 [H, W] each, N.
        landmarks: Of these images.
        out: Gets ``student/``, ``teacher/`` (where it was trained), ``report.json``, ``report.md`` and ``predicted.csv``.
        settings: None: the defaults.
        teacher: A ready one instead of training one; it must not have seen a test image.
        test: Names of the test images; None: cross-validation.
        folds: Of the cross-validation.
        progress: Whether to show progress bars.

    Returns:
        What ``report.json`` holds.

    Raises:
        SonokitError: A test image is not there or the teacher has seen it, a patient is on both sides, or there are fewer
            patients than folds.
    """
    settings = settings or LandmarkSettings()
    out = Path(out)
    sides = held_out_sides(landmarks, test, folds)
    prints = image_fingerprints(landmarks.images, images)
    if teacher is not None:
        _require_fit(teacher, landmarks, prints, sides)
        settings = replace(settings, size=teacher.size, target=replace(settings.target, stride=teacher.network.stride))
    found = {who: np.full_like(landmarks.points, np.nan) for who in ("teacher", "student")}
    pairs = []
    for number, (rows, tested) in enumerate(sides, 1):
        label = f"fold {number}/{len(sides)}" if progress else None
        pairs.append(_distil_side(images, landmarks, rows, settings, teacher, label))
        for who, network in zip(found, pairs[-1], strict=True):
            model = as_model(network, settings, {})
            own = {landmarks.images[k]: images[k] for k in tested}
            found[who][tested] = predict_landmarks(model, own).points
    every = np.arange(len(landmarks))
    last = (
        pairs[-1]
        if test is not None
        else _distil_side(images, landmarks, every, settings, teacher, "all" if progress else None)
    )
    trained = sides[-1][0] if test is not None else every
    seen = {landmarks.images[k]: prints[landmarks.images[k]] for k in trained}
    save_landmark_model(as_model(last[1], settings, seen), out / "student")
    if teacher is None:
        save_landmark_model(as_model(last[0], settings, seen), out / "teacher")
    scored = np.sort(np.concatenate([tested for _, tested in sides]))
    report = _report(landmarks.select(scored), {who: points[scored] for who, points in found.items()}, last, settings)
    views, places = landmark_views([images[int(k)] for k in trained], None, settings.size)
    report["never_found"] = never_found(predicted_points(last[1], views, places)[1], landmarks.names)
    report |= {"test": "given list" if test is not None else f"{len(sides)} folds grouped by patient", "images": len(landmarks)}
    write_landmarks_csv(out / "predicted.csv", replace(landmarks.select(scored), points=found["student"][scored]))
    write_json(out / "report.json", report)
    write_text(out / "report.md", landmark_report_text(report))
    return report


def held_out_sides(landmarks: Landmarks, test: Sequence[str] | None, folds: int) -> list[Side]:
    """Training and test rows; no patient is on both sides.

    Raises:
        SonokitError: See :func:`distil_landmarks`.
    """
    patients = landmarks.patients
    if test is None:
        count = len(np.unique(patients))
        if not 2 <= folds <= count:
            raise SonokitError(f"{count} patients cannot be divided into {folds} folds: give --folds from 2 to {count}")
        rows = np.arange(len(landmarks))
        return [(rows[a], rows[b]) for a, b in GroupKFold(folds).split(rows, groups=patients)]
    unknown = [name for name in test if name not in landmarks.images]
    if unknown:
        raise SonokitError(f"the test image {unknown[0]!r} has no landmarks: name images as the table does")
    tested = np.isin(np.array(landmarks.images), list(test))
    both = sorted(set(patients[tested]) & set(patients[~tested]))
    if both or tested.all() or not tested.any():
        fault = f"patient {both[0]} has images on both sides" if both else "one of the sides is empty"
        raise SonokitError(f"the test list does not divide the images soundly: {fault}")
    return [(np.flatnonzero(~tested), np.flatnonzero(tested))]


def _distil_side(
    images: Sequence[np.ndarray],
    landmarks: Landmarks,
    rows: np.ndarray,
    settings: LandmarkSettings,
    teacher: LandmarkModel | None,
    label: str | None,
) -> tuple[LandmarkNetwork, LandmarkNetwork]:
    """Teacher and student of some rows."""
    views, _ = landmark_views([images[k] for k in rows], landmarks.points[rows], settings.size)
    if teacher is None:
        large = train_landmark_teacher(views, landmarks.names, settings, progress=label and f"{label}, teacher")
    else:
        large = teacher.network
    small = distil_from(large, views, settings, progress=label and f"{label}, student")
    return large, small


def _require_fit(teacher: LandmarkModel, landmarks: Landmarks, prints: dict[str, str], sides: Sequence[Side]) -> None:
    if teacher.names != landmarks.names:
        raise SonokitError(
            f"the teacher knows the landmarks {', '.join(teacher.names)}, the table has {', '.join(landmarks.names)}: they "
            "must be the same in the same order"
        )
    seen = set(teacher.provenance.get("training_images", {}).values())
    tested = [landmarks.images[k] for _, rows in sides for k in rows]
    known = [name for name in tested if prints[name] in seen]
    if known:
        raise SonokitError(
            f"the teacher was trained on {len(known)} of the test images ({known[0]}, …): its student could not be scored on "
            "them. Give a test list of images that it has not seen, or let a teacher be trained"
        )


def _report(
    truth: Landmarks,
    found: dict[str, np.ndarray],
    networks: tuple[LandmarkNetwork, LandmarkNetwork],
    settings: LandmarkSettings,
) -> dict[str, Any]:
    in_mm = truth.spacing is not None and bool((truth.spacing > 0).all())
    errors = {who: radial_errors(points, truth.points, truth.spacing if in_mm else None) for who, points in found.items()}
    shape = (1, settings.size[1], settings.size[0])
    scores: dict[str, LandmarkScores] = {who: landmark_scores(own) for who, own in errors.items()}
    intervals = {who: score_intervals(own, truth.patients) for who, own in errors.items()}
    minus = paired_differences(errors["student"], errors["teacher"], truth.patients)
    sizes = {who: vars(profile_student(one, shape)) for who, one in zip(("teacher", "student"), networks, strict=True)}
    return {
        "unit": "mm" if in_mm else "px",
        "radii": list(RADII_MM),
        "scores": {who: own.as_dict() for who, own in scores.items()},
        "intervals": {who: {name: one.as_dict() for name, one in own.items()} for who, own in intervals.items()},
        "student_minus_teacher": {name: one.as_dict() for name, one in minus.items()},
        "networks": sizes,
        "settings": settings.as_dict(),
    }


def landmark_report_text(report: dict[str, Any]) -> str:
    """The report as a page of Markdown."""
    unit = report["unit"]
    titles = {"mre": f"MRE, {unit}"} | {f"sdr_{radius:g}": f"SDR at {radius:g} {unit}, %" for radius in report["radii"]}
    lines = [f"Landmarks on images that neither network has seen ({report['test']}); 95 % intervals over patients.", ""]
    lines += ["| | " + " | ".join(titles.values()) + " | parameters | multiply-adds |", "|---" * (len(titles) + 3) + "|"]
    for who in ("teacher", "student"):
        own, size = report["intervals"][who], report["networks"][who]
        cells = [_figure(own[name]) for name in titles]
        lines.append(f"| {who} | " + " | ".join(cells) + f" | {size['parameters']:,} | {size['multiply_adds']:,} |")
    cells = [_figure(report["student_minus_teacher"][name], "+") for name in titles]
    lines += ["| student − teacher, paired | " + " | ".join(cells) + " | | |", ""]
    if report["never_found"]:
        names = ", ".join(report["never_found"])
        lines += [f"The student's heat maps of these stayed blank: {names}. Train it longer, or from another seed.", ""]
    return "\n".join(lines)


def _figure(one: dict[str, Any], sign: str = "") -> str:
    if one["value"] is None:
        return "–"
    between = "" if one["low"] is None else f" [{one['low']:{sign}.2f}, {one['high']:{sign}.2f}]"
    return f"{one['value']:{sign}.2f}{between}"
