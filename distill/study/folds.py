"""One fold of a study: its teacher, a student from labels alone and a distilled one, each tested on clips that are new to it.

The views are drawn once a fold; the teacher is asked once; both students begin with the same weights and see the same views in
the same order. What is finished lies in ``folds/fold-NNN-ARM.json``, with an identity of all that decides it.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...atomic import write_json
from ...backbones.folder import backbone_fingerprint
from ...evaluation.fine_tuned_folds import Watch
from ...evaluation.out_of_fold import FoldRows
from ..signals.response import Kind
from ..signals.weighted import Signals, read_signals
from ..students.build import build_student
from ..training.augmented import augmented
from ..training.learners import Classifier, Learner
from ..training.loop import LoopSettings, train
from ..training.taught import Taught, ask
from ..training.teachers import Source, weights_source
from ..training.views import Views, clip_views
from .asked import Asked
from .expert_knowledge import Knowledge
from .fold_teacher import FoldTeacher, at_size, augmentation, base_views, fold_teacher, hashed, seed_of, teacher_side
from .settings import DistillSettings, for_question, label_weights

ARMS = ("teacher", "distilled", "labels")
"""What is measured on each fold."""

LABELS_ALONE: dict[str, dict[str, Any]] = {"labels": {}}
"""The signals of the student that has no teacher."""

_VIEWS_SEED, _STUDENT_SEED = 1, 2
_SCHEMA = "distill 1"


@dataclass(frozen=True, eq=False)
class Study:
    """What all folds share.

    Attributes:
        asked: The question.
        sources: What teaches.
        settings: How.
        signals: What the distilled student learns from, plain settings.
        knowledge: Gaze or regions, for the teachers that are fitted here; None for none.
        out: The folder of the study.
        device: Where to work.
        progress: Show bars on standard error.
        kept: Where fitted teachers and what they said are kept for other studies; None: with this one's work.
    """

    asked: Asked
    sources: tuple[Source, ...]
    settings: DistillSettings
    signals: Mapping[str, Mapping[str, Any]]
    knowledge: Knowledge | None
    out: Path
    device: torch.device
    progress: bool = False
    kept: Path | None = None

    @property
    def begin(self) -> Source:
        """What the students begin with, as far as it has seen labels."""
        return weights_source(self.settings.student_weights)

    @property
    def work(self) -> Path:
        """What lasts until a fold, or the study, is finished."""
        return self.out / "work"

    def new_student(self) -> Classifier:
        """As all students of the study begin."""
        backbone = build_student(self.settings.student, weights=self.settings.student_weights, seed=self.settings.seed)
        return Classifier(backbone, self.asked.classes)

    def identity(self, rows: np.ndarray, tested: np.ndarray, fold: int | None) -> str:
        """Hash of all that decides the figures of a fold."""
        settings = {k: v for k, v in asdict(self.settings).items() if k not in ("folds", "repeats", "draws", "level")}
        known = None if self.knowledge is None else self.knowledge.fingerprint
        teachers = [(source.name if source.backbone else "", source.fingerprint, source.pretrained) for source in self.sources]
        begin = backbone_fingerprint(self.new_student().backbone)
        asked = [self.asked.fingerprint(part) for part in (rows, tested)]
        return hashed([_SCHEMA, settings, self.signals, known, teachers, begin, asked, fold])


@dataclass(frozen=True, eq=False)
class Taken:
    """A student, and how its training went.

    Attributes:
        student: Trained.
        signals: With what was filled in.
        history: Of each epoch, the mean of the loss and of each of its terms.
    """

    student: Classifier
    signals: dict[str, Any]
    history: list[dict[str, float]]


def run_fold(study: Study, fold: FoldRows, title: str) -> dict[str, dict[str, Any]]:
    """Arm -> what its file says: ``clip_ids`` and ``values`` [M][K] of the test clips, ``history``, ``cost``.

    Args:
        study: The study.
        fold: Its training and test clips.
        title: Of the progress bars.
    """
    identity = study.identity(fold.train, fold.test, fold.index)
    files = {arm: study.out / "folds" / f"fold-{fold.index:03d}-{arm}.json" for arm in ARMS}
    found = {arm: _finished(file, identity) for arm, file in files.items()}
    if all(found.values()):
        return {arm: content for arm, content in found.items() if content is not None}
    work = study.work / f"fold-{fold.index:03d}"
    place = study.kept or work
    watch = Watch()
    teacher = _teacher(study, fold.train, fold.index, place, title)
    cost = watch.lap()
    if found["teacher"] is None:
        views = base_views(study.asked, fold.test, teacher_side(study.settings, study.sources), None, study.knowledge)
        bar = _bar(study, title, "teacher, test")
        said = teacher.teach(views, study.asked.clip_ids, shelf=place, device=study.device, progress=bar)
        values = clip_probabilities(said, views.items, fold.test, study.asked.kind)
        found["teacher"] = _write(files["teacher"], identity, study, fold, values, [], cost)
    views, taught = lesson(study, teacher, fold.train, fold.index, place, title)
    for arm, signals in (("distilled", study.signals), ("labels", LABELS_ALONE)):
        if found[arm] is None:
            watch.lap()
            taken = _student(study, views, taught, teacher, signals, fold.train, fold.index, _bar(study, title, arm))
            values = student_probabilities(taken.student, study, fold.test)
            found[arm] = _write(files[arm], identity, study, fold, values, taken.history, watch.lap())
    del taught  # its files are memory maps
    shutil.rmtree(work, ignore_errors=True)
    return {arm: content for arm, content in found.items() if content is not None}


def final_student(study: Study, rows: np.ndarray) -> tuple[Taken, FoldTeacher]:
    """A student of all clips that may be learnt from, and its teacher; ``rows`` int64 [M]."""
    place = study.kept or study.work / "final"
    teacher = _teacher(study, rows, None, place, "final")
    views, taught = lesson(study, teacher, rows, None, place, "final")
    taken = _student(study, views, taught, teacher, study.signals, rows, None, _bar(study, "final", "student"))
    return taken, teacher


def clip_probabilities(said: Taught, items: np.ndarray, rows: np.ndarray, kind: Kind) -> np.ndarray:
    """A clip's probabilities: the mean of its frames', float64 [M, K].

    Args:
        said: Of V views.
        items: Which clip each view is of, int64 [V].
        rows: The clips, int64 [M].
        kind: Of the question.
    """
    logits = torch.from_numpy(np.array(said.logits)).double()
    each = (logits.softmax(dim=1) if kind == "classes" else logits.sigmoid()).numpy()
    if not len(rows):
        return np.zeros((0, each.shape[1]))
    return np.stack([each[items == row].mean(axis=0) for row in rows])


def student_probabilities(student: Learner, study: Study, rows: np.ndarray) -> np.ndarray:
    """What a student says of clips, from all frames in the cache: float64 [M, K]; ``rows`` int64 [M]."""
    views = clip_views(study.asked.clips, rows, None, size=study.settings.size)
    said = ask(student, views, device=study.device)
    return clip_probabilities(said, views.items, rows, study.asked.kind)


def _teacher(study: Study, rows: np.ndarray, fold: int | None, place: Path, title: str) -> FoldTeacher:
    return fold_teacher(
        study.sources, study.asked, rows, study.settings, study.knowledge,
        fold=fold, place=place, device=study.device, progress=lambda what: _bar(study, title, what),
    )  # fmt: skip


def lesson(
    study: Study, teacher: FoldTeacher, rows: np.ndarray, fold: int | None, shelf: Path | None, title: str
) -> tuple[Views, Taught]:
    """The views of the students, without gaze, and what the teacher says of them; regions only for a term that asks.

    Args:
        study: The study.
        teacher: Of the fold.
        rows: The training clips, int64 [M].
        fold: Its number; None: the final one.
        shelf: Where the teacher's answers are kept; None keeps them in memory.
        title: Of the progress bars.
    """
    settings, known = study.settings, study.knowledge
    base = base_views(study.asked, rows, teacher_side(settings, study.sources), settings.frames_per_clip, known)
    views = augmented(base, settings.looks, augmentation(settings, known), seed=seed_of(settings.seed, fold, _VIEWS_SEED))
    strides = signals_of(study, study.signals, teacher, rows).teacher_strides
    bar = _bar(study, title, "asking the teacher")
    taught = teacher.teach(views, study.asked.clip_ids, strides, shelf=shelf, device=study.device, progress=bar)
    bare = replace(views, gaze=None)
    if "region_overlap" not in study.signals:
        bare = replace(bare, regions=None, annotated=None)
    return at_size(bare, settings.size), taught


def _student(
    study: Study,
    views: Views,
    taught: Taught,
    teacher: FoldTeacher,
    signals: Mapping[str, Mapping[str, Any]],
    rows: np.ndarray,
    fold: int | None,
    progress: str | None,
) -> Taken:
    settings = study.settings
    terms = signals_of(study, signals, teacher, rows)
    student = study.new_student()
    loop = LoopSettings(
        epochs=settings.epochs,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        backbone_learning_rate=None if settings.student_weights == "none" else settings.learning_rate / 10,
        seed=seed_of(settings.seed, fold, _STUDENT_SEED),
    )
    history = train(student, views, terms, taught, loop, device=study.device, progress=progress)
    return Taken(student, terms.settings, history)


def signals_of(study: Study, signals: Mapping[str, Mapping[str, Any]], teacher: FoldTeacher, rows: np.ndarray) -> Signals:
    """The terms of a student's loss.

    Args:
        study: The study.
        signals: Plain settings.
        teacher: Whose maps they compare with.
        rows: The training clips, int64 [M], whose labels are weighed.

    Raises:
        SonokitError: See :func:`~sonokit.distill.signals.weighted.read_signals`.
    """
    asked = study.asked
    weights = label_weights(asked.truth[rows], asked.kind, len(asked.classes))
    full = for_question(signals, asked.kind, weights)
    return read_signals(full, study.new_student().map_channels, teacher.map_channels)


def _bar(study: Study, title: str, what: str) -> str | None:
    return f"{title}: {what}" if study.progress else None


def _finished(file: Path, identity: str) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if content.get("identity") == identity else None


def _write(
    file: Path,
    identity: str,
    study: Study,
    fold: FoldRows,
    values: np.ndarray,
    history: Sequence[Mapping[str, float]],
    cost: Mapping[str, float],
) -> dict[str, Any]:
    ids = study.asked.clip_ids
    content = {
        "identity": identity,
        "repeat": fold.repeat,
        "classes": list(study.asked.classes),
        "clip_ids": ids[fold.test].tolist(),
        "values": np.round(values, 7).tolist(),
        "trained_on": ids[fold.train].tolist(),
        "history": list(history),
        "cost": dict(cost),
    }
    write_json(file, content)
    return content
