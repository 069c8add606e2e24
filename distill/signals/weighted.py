"""Signals together: the terms of one loss and their weights, read from plain settings.

    settings = {"response": {"weight": 0.7, "temperature": 4.0}, "labels": {"weight": 0.3},
                "feature_sharing": {"weight": 1.0, "strides": [8, 16]}}
    signals = read_signals(settings, student.map_channels, teacher.map_channels)
    loss = signals(student_outputs, teacher_outputs, batch)

A term whose weight is 0 is not there at all: neither computed, nor in need of anything.
"""

import difflib
import inspect
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import SonokitError
from .attention import AttentionTransfer
from .feature_sharing import FeatureSharing
from .heat_maps import HeatMapResponse, HeatMapTargets
from .labels import HardLabels
from .region_overlap import RegionOverlap
from .relational import Relational
from .response import Response
from .terms import Batch, Outputs, Signal

SIGNALS: dict[str, type[Signal]] = {
    "labels": HardLabels,
    "response": Response,
    "feature_sharing": FeatureSharing,
    "attention": AttentionTransfer,
    "relational": Relational,
    "region_overlap": RegionOverlap,
    "heat_map_targets": HeatMapTargets,
    "heat_map_response": HeatMapResponse,
}
"""Names of the terms in settings."""

_FROM_NETWORKS = ("student_channels", "teacher_channels")


class Signals(nn.Module):
    """A weighted sum of terms, with the call of one.

    Attributes:
        terms: Name -> term. Their parameters exist in training only.
        weights: Name -> weight, all above 0.
        settings: What they were read from, defaults filled in: plain values for a record.
    """

    def __init__(self, terms: Mapping[str, Signal], weights: Mapping[str, float], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = dict(weights)
        self.settings = dict(settings)

    @property
    def uses_teacher(self) -> bool:
        """Whether any term does; if none, ``teacher`` may be None."""
        return any(term.uses_teacher for term in self._all().values())

    @property
    def uses_class_maps(self) -> bool:
        """Whether any term reads the student's class activation maps."""
        return any(term.uses_class_maps for term in self._all().values())

    @property
    def student_strides(self) -> tuple[int, ...]:
        """Of the student's maps that the terms read, rising: for ``forward_maps``."""
        return tuple(sorted({stride for term in self._all().values() for stride in term.student_strides}))

    @property
    def teacher_strides(self) -> tuple[int, ...]:
        """Of the teacher's maps that the terms read, rising."""
        return tuple(sorted({stride for term in self._all().values() for stride in term.teacher_strides}))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """The weighted sum, shape []; see :class:`~sonokit.distill.signals.terms.Signal`."""
        return self.total(self.parts(student, teacher, batch))

    def parts(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """Each term by itself, not weighted: for a log, and for :meth:`total`."""
        return {name: term(student, teacher, batch) for name, term in self._all().items()}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of :meth:`parts`."""
        return torch.stack([self.weights[name] * value for name, value in parts.items()]).sum()

    def _all(self) -> dict[str, Signal]:
        return {name: cast(Signal, term) for name, term in self.terms.items()}


def read_signals(
    settings: Mapping[str, Mapping[str, Any]],
    student_channels: Mapping[int, int] | None = None,
    teacher_channels: Mapping[int, int] | None = None,
) -> Signals:
    """The signals that plain settings (JSON) describe.

    Args:
        settings: Name of a term (:data:`SIGNALS`) -> its ``weight`` (1 where not given) and its options.
        student_channels: Stride -> channels of the student's maps (``Backbone.map_channels``), for feature sharing.
        teacher_channels: The same of the teacher.

    Raises:
        SonokitError: No such term or option, a weight that is negative or no number, an option of a wrong type, or nothing
            with a weight above 0.
    """
    terms, weights, resolved = {}, {}, {}
    for name, options in settings.items():
        kind = _known(name)
        given = dict(options)
        weight = _weight(name, given.pop("weight", 1.0))
        full = _with_defaults(name, kind, given)
        if not weight:
            continue
        channels = {"student_channels": student_channels or {}, "teacher_channels": teacher_channels or {}}
        needs = {key: value for key, value in channels.items() if key in inspect.signature(kind).parameters}
        terms[name], weights[name] = _built(name, kind, full, given, needs), weight
        resolved[name] = {"weight": weight, **full}
    if not terms:
        raise SonokitError(f"no signal has a weight above 0; choose from {', '.join(SIGNALS)}")
    return Signals(terms, weights, resolved)


def labels_and_response(alpha: float = 0.7, temperature: float = 4.0) -> dict[str, dict[str, float]]:
    """Settings of plain distillation, (1 − alpha) · labels + alpha · response: 0 is labels only, 1 the teacher only.

    Raises:
        SonokitError: Alpha is not between 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise SonokitError(f"alpha must lie between 0 (labels only) and 1 (teacher only), it is {alpha}")
    return {"labels": {"weight": 1 - alpha}, "response": {"weight": alpha, "temperature": temperature}}


def _known(name: str) -> type[Signal]:
    if name not in SIGNALS:
        close = difflib.get_close_matches(name, SIGNALS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(SIGNALS)}"
        raise SonokitError(f"there is no signal {name!r}; {hint}")
    return SIGNALS[name]


def _weight(name: str, weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not (math.isfinite(weight) and weight >= 0):
        raise SonokitError(f"the weight of {name} must be a number, 0 or more; it is {weight!r}")
    return float(weight)


def _with_defaults(name: str, kind: type[Signal], given: dict[str, Any]) -> dict[str, Any]:
    # RegionOverlap and HeatMapTargets have no __init__ of their own; nn.Module's takes *args, **kwargs, which are no options
    found = inspect.signature(kind).parameters.values()
    own = {one.name: one.default for one in found if one.kind is one.POSITIONAL_OR_KEYWORD and one.name not in _FROM_NETWORKS}
    unknown = [option for option in given if option not in own]
    if unknown:
        raise SonokitError(f"the signal {name} has no option {unknown[0]!r}; it has: {', '.join(['weight', *own])}")
    return own | given


def _built(name: str, kind: type[Signal], full: dict[str, Any], given: dict[str, Any], needs: dict[str, Any]) -> Signal:
    try:
        return kind(**full, **needs)
    except (TypeError, ValueError) as fault:
        wrong = next((option for option in given if _fails(kind, {option: given[option]}, needs)), ", ".join(given))
        raise SonokitError(f"the signal {name}: its option {wrong} cannot be {full.get(wrong)!r} ({fault})") from fault


def _fails(kind: type[Signal], given: dict[str, Any], needs: dict[str, Any]) -> bool:
    try:
        kind(**given, **needs)
    except (TypeError, ValueError):
        return True
    except SonokitError:  # of another option's default
        return False
    return False
