"""The pilot of ``pocus_distillation.py``: run inside the training side of the first fold, before a student saw any test fold.

Its patients are divided once more; in two of three inner folds a teacher of two members is trained on the inner training
clips, students are taught, and both predict the inner test clips. One thing was to be decided: whether clips of other organs
and of other classes, of which the teacher alone speaks, join the views. The measure is how far a student's probabilities are
from the teacher's (Kullback-Leibler divergence), which says more about forty-nine clips than counting the right ones. The
rest (share and temperature of the response, weight of feature sharing) are the design's starting values, not tried.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pocus_distillation_students import FRAMES_TESTED, Arm, lesson, predict, train_student
from pocus_distillation_teachers import Clips, open_ensemble, train_member
from sklearn.model_selection import StratifiedGroupKFold
from sonokit.clips.cached_clips import CachedClips
from sonokit.evaluation.out_of_fold import FoldRows

NETWORK, MEMBERS, EPOCHS, FRAMES, LOOKS, VIEWS, FIRST = "micro-10k", 2, 10, 16, 2, 60_000, 100
ARMS = {
    "labels": Arm(views=VIEWS),
    "response": Arm(alpha=0.7, views=VIEWS),
    "response, unlabelled clips too": Arm(alpha=0.7, unlabelled=True, views=VIEWS),
}


def run_pilot(clips: Clips, organs: CachedClips, fold: FoldRows, weights: str, out: Path) -> dict[str, Any]:
    """Means over the inner folds, of the teacher and of every arm."""
    found: dict[str, list[dict[str, float]]] = {}
    tested = 0
    for inner in _inside(clips, fold):
        for member in range(MEMBERS):
            train_member(clips, inner, member, weights, out / "pilot", 0, epochs=EPOCHS)
        teacher = open_ensemble(clips, inner, weights, out / "pilot", MEMBERS)
        given = lesson(clips, organs, inner, teacher, FRAMES, LOOKS)
        views, truth = clips.views(inner.test, FRAMES_TESTED), clips.labelled.truth[inner.test]
        said = predict(teacher, views)
        tested += len(truth)
        found.setdefault("teacher", []).append(_scores(said, said, truth))
        for name, arm in ARMS.items():
            student, _ = train_student(given, NETWORK, arm, clips.labelled.classes, 0)
            found.setdefault(name, []).append(_scores(predict(student, views), said, truth))
    rows = {name: {key: round(float(np.mean([one[key] for one in of])), 3) for key in of[0]} for name, of in found.items()}
    settings = {"members": MEMBERS, "epochs": EPOCHS, "frames": FRAMES, "looks": LOOKS, "views": VIEWS}
    return {"network": NETWORK, "clips": tested, **settings, "rows": rows, "chosen": "response"}


def _inside(clips: Clips, fold: FoldRows) -> list[FoldRows]:
    truth, patients = clips.labelled.truth[fold.train], clips.labelled.patients[fold.train]
    parts = StratifiedGroupKFold(3, shuffle=True, random_state=0).split(fold.train, truth, patients)
    inner = [FoldRows(FIRST + i, 0, fold.train[train], fold.train[test]) for i, (train, test) in enumerate(parts)]
    return inner[:2]


def _scores(student: np.ndarray, teacher: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    chosen, tiny = student.argmax(axis=1), 1e-6
    return {
        "balanced_accuracy": float(np.mean([(chosen[truth == code] == code).mean() for code in np.unique(truth)])),
        "log_loss": float(-np.log(student[np.arange(len(truth)), truth] + tiny).mean()),
        "divergence": float((teacher * np.log((teacher + tiny) / (student + tiny))).sum(axis=1).mean()),
        "agreement": float((chosen == teacher.argmax(axis=1)).mean()),
    }
