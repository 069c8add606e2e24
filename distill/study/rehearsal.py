"""Everything once on three clips, before a folder is made and hours are spent: what does not fit together is said now."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from ...errors import SonokitError
from ..signals.terms import Signal
from .fold_teacher import unfitted_teacher
from .folds import Study, lesson, signals_of

_CLIPS = 3  # enough for the angles that relational distillation compares


def rehearse(study: Study, rows: np.ndarray) -> None:
    """Augment, ask the teacher as it is before any training, and add up the student's loss; nothing is trained or written.

    Args:
        study: What is to be done.
        rows: Clips that may be learnt from, int64 [M].

    Raises:
        SonokitError: A signal has an option that it does not know, needs something that teacher or student cannot give, or
            views cannot be augmented as asked.
    """
    short = replace(study, settings=replace(study.settings, frames_per_clip=1, looks=1), progress=False)
    teacher = unfitted_teacher(study.sources, study.asked, study.knowledge)
    terms = signals_of(study, study.signals, teacher, rows).to(study.device)
    student = study.new_student().to(study.device).eval()
    for name, term in terms.terms.items():
        assert isinstance(term, Signal)
        _require_maps(name, "student", term.student_strides, student.map_channels)
        _require_maps(name, "teacher", term.teacher_strides, teacher.map_channels)
    views, taught = lesson(short, teacher, rows[:_CLIPS], None, None, "")
    seen = views.batch(slice(None), device=study.device)
    with torch.inference_mode():
        said = student.see(seen, terms.student_strides, class_maps=terms.uses_class_maps)
        terms(said, taught.batch(slice(None), study.device), seen.known)


def _require_maps(signal: str, whose: str, strides: tuple[int, ...], channels: Mapping[int, int]) -> None:
    absent = [stride for stride in strides if stride not in channels]
    if absent:
        there = ", ".join(map(str, sorted(channels))) or "none"
        raise SonokitError(f"the signal {signal}: the {whose} has no map at stride {absent[0]}; it has: {there}")
