"""Gaze-assisted distillation and what it is compared with, for one division (Patra et al., MICCAI 2019).

Two teachers of one size from one beginning: the plain one sees frames, the other also where an expert looked. Students see
frames only. One learns from labels, one from the plain teacher as well, one from the gaze teacher; two more share the teachers'
feature maps besides. Gaze is needed in training alone: of test images only the gaze teacher is shown it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...errors import SonokitError
from ..signals.teacher_inputs import GazeEntry
from ..training.learners import GazeClassifier
from ..training.taught import ask
from ..training.views import Views
from .arms import ArmSettings, looks_at, new_teacher, probabilities, trained_student, trained_teacher

GAZE_TEACHERS = ("plain_teacher", "gaze_teacher")
GAZE_STUDENTS = ("labels", "plain", "gaze", "plain_sharing", "gaze_sharing")
GAZE_ARMS = {
    "plain_teacher": "teacher, frames",
    "gaze_teacher": "teacher, frames and gaze",
    "labels": "student from labels",
    "plain": "student of the plain teacher",
    "gaze": "student of the gaze teacher",
    "plain_sharing": "student of the plain teacher, features shared",
    "gaze_sharing": "student of the gaze teacher, features shared",
}
"""Arm -> what it is."""


@dataclass(frozen=True)
class GazeEntrance:
    """How gaze enters the teacher; see :class:`~sonokit.distill.signals.teacher_inputs.GazeTeacherInput`.

    Attributes:
        entry: "channel" or "features".
        stride: Of the map that is multiplied, for "features"; None: the deepest.
    """

    entry: GazeEntry = "channel"
    stride: int | None = None


def gaze_arms(
    train: Views,
    test: Views,
    classes: Sequence[str],
    settings: ArmSettings | None = None,
    *,
    entrance: GazeEntrance | None = None,
    students: Sequence[str] = GAZE_STUDENTS,
) -> dict[str, np.ndarray]:
    """Train all arms and let them say the test's classes.

    Args:
        train: With labels (-1 where unknown: those views count in the teachers' answers alone) and gaze.
        test: With gaze; labels are not read.
        classes: Names, K.
        settings: None: the defaults.
        entrance: None: the defaults.
        students: Which of :data:`GAZE_STUDENTS`.

    Returns:
        Arm -> probabilities, float64 [N, K], in the order of ``test``.

    Raises:
        SonokitError: There is no gaze, or no such arm.
    """
    settings, entrance = settings or ArmSettings(), entrance or GazeEntrance()
    unknown = [name for name in students if name not in GAZE_STUDENTS]
    if unknown:
        raise SonokitError(f"there is no arm {unknown[0]!r}; there are: {', '.join(GAZE_STUDENTS)}")
    if train.gaze is None or test.gaze is None:
        raise SonokitError("the gaze arms need gaze of training and test views; zeros where nobody looked")
    looks = looks_at(train, settings)
    blind = replace(looks, gaze=None)
    seeing = GazeClassifier(new_teacher(classes, settings), entrance.entry, entrance.stride)
    teachers = {
        "plain": trained_teacher(new_teacher(classes, settings), blind, settings),
        "gaze": trained_teacher(seeing, looks, settings),
    }
    said = {f"{name}_teacher": probabilities(teacher, test) for name, teacher in teachers.items()}
    share = {"feature_sharing": {"weight": settings.sharing, "strides": list(settings.sharing_strides)}}
    strides = settings.sharing_strides if any(name.endswith("_sharing") for name in students) else ()
    answers = {name: ask(teacher, looks, strides) for name, teacher in teachers.items()}
    for name in students:
        source = name.removesuffix("_sharing")
        student = trained_student(
            classes,
            blind,
            settings,
            teacher=teachers.get(source),
            taught=answers.get(source),
            extra=share if name.endswith("_sharing") else None,
        )
        said[name] = probabilities(student, replace(test, gaze=None))
    return said
