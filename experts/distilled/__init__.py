"""Distilled experts: a small head learns from a teacher's soft targets too, on labelled clips and on others."""

from .fitting import Distillation, distil_final, distil_out_of_fold
from .for_study import distillation_for, distilled_entry
from .gain import distillation_gain
from .soft_targets import SoftTargets, read_soft_targets
from .student import DistilledHead
from .teachers import EnsembleTeacher, NetworkTeacher, Teacher
from .unlabelled import Unlabelled, find_unlabelled

__all__ = [
    "Distillation",
    "DistilledHead",
    "EnsembleTeacher",
    "NetworkTeacher",
    "SoftTargets",
    "Teacher",
    "Unlabelled",
    "distil_final",
    "distil_out_of_fold",
    "distillation_for",
    "distillation_gain",
    "distilled_entry",
    "find_unlabelled",
    "read_soft_targets",
]
