"""What all terms of a distillation loss have in common: what they are given, and that the teacher learns nothing from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar

from torch import Tensor, nn

from ...errors import SonokitError


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network says of a batch; a term that needs a part that is None says so.

    Attributes:
        logits: Float [B, K].
        features: Float [B, D].
        maps: Stride -> feature map, float [B, C, h, w].
        class_maps: Class activation maps, float [B, K, h, w]; see
            :func:`~sonokit.distill.signals.region_overlap.class_activation_maps`.
        heat_maps: Of landmarks, float [B, L, h, w].
    """

    logits: Tensor | None = None
    features: Tensor | None = None
    maps: Mapping[int, Tensor] = field(default_factory=dict)
    class_maps: Tensor | None = None
    heat_maps: Tensor | None = None

    def detached(self) -> "Outputs":
        """The same values, through which no gradient flows."""
        kept = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "maps"}
        plain = {name: None if value is None else value.detach() for name, value in kept.items()}
        return Outputs(**plain, maps={stride: one.detach() for stride, one in self.maps.items()})


@dataclass(frozen=True, eq=False)
class Batch:
    """What is known of a batch beside the frames.

    Attributes:
        labels: Of one class each: int64 [B], -1 where unknown. Of several: float [B, K] of 0, 1 and nan where unknown.
        regions: What the experts marked, float [B, 1, H, W] from 0 (outside) to 1.
        annotated: Which images have regions, bool [B]; None where all have.
        heat_maps: Of the true landmarks, float [B, L, h, w].
        present: Which landmarks are there, bool [B, L]; None where all are.
    """

    labels: Tensor | None = None
    regions: Tensor | None = None
    annotated: Tensor | None = None
    heat_maps: Tensor | None = None
    present: Tensor | None = None


class Signal(nn.Module):
    """One term: ``signal(student, teacher, batch)`` is a scalar, lower is better, and no gradient of it reaches the teacher.

    What a term learns itself (a projection) are its own parameters, never the student's: give them to the optimiser, and leave
    them behind at the end.
    """

    uses_teacher: ClassVar[bool] = True
    uses_class_maps: ClassVar[bool] = False
    """Whether the term reads the student's class activation maps."""
    student_strides: tuple[int, ...] = ()
    """Of the student's maps that the term reads."""
    teacher_strides: tuple[int, ...] = ()
    """Of the teacher's maps that the term reads."""

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """The term's value, shape [].

        Args:
            student: What the student says.
            teacher: What the teacher says of the same images; None is enough for a term that does not use it.
            batch: What is known of them.

        Raises:
            SonokitError: A part that the term needs is missing, or its shapes do not fit.
        """
        if self.uses_teacher and teacher is None:
            raise SonokitError(f"{type(self).__name__} needs a teacher: name one, or set the signal's weight to 0")
        return self.compare(student, Outputs() if teacher is None else teacher.detached(), batch)

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The term itself; ``teacher`` is detached already."""
        raise NotImplementedError


def needed(value: Tensor | None, signal: Signal, what: str) -> Tensor:
    """``value``, or the error that says what a term lacks."""
    if value is None:
        raise SonokitError(f"{type(signal).__name__} needs {what}, which are not there: provide them, or set its weight to 0")
    return value


def needed_map(outputs: Outputs, stride: int, signal: Signal, whose: str) -> Tensor:
    """The map of a stride, or the error that names those that are there."""
    if stride not in outputs.maps:
        there = ", ".join(map(str, sorted(outputs.maps))) or "none"
        raise SonokitError(f"{type(signal).__name__} needs the {whose}'s map at stride {stride}; there are: {there}")
    return outputs.maps[stride]


def same_shape(student: Tensor, teacher: Tensor, signal: Signal, what: str) -> None:
    """Refuse tensors that cannot be compared number by number: torch would stretch one of them silently."""
    if student.shape != teacher.shape:
        raise SonokitError(
            f"{type(signal).__name__}: the student's {what} are {tuple(student.shape)}, the other's {tuple(teacher.shape)}"
        )


def depth_pairs(strides: Sequence[int | Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """(student's stride, teacher's stride) pairs out of plain settings, where a single number stands for both.

    Raises:
        SonokitError: Nothing is named, or something else than a stride or a pair of them.
    """
    pairs = []
    for entry in strides:
        pair = (entry, entry) if isinstance(entry, int) else tuple(entry)
        if len(pair) != 2 or not all(isinstance(stride, int) and stride > 0 for stride in pair):
            raise SonokitError(f"strides are numbers such as 8, or pairs [student's, teacher's]; got {entry!r}")
        pairs.append((pair[0], pair[1]))
    if not pairs:
        raise SonokitError("a signal that compares maps needs at least one stride, for example strides: [8, 16]")
    return tuple(pairs)
