"""Networks that learn from views, students and teachers alike: ``see`` a batch, say :class:`~..signals.terms.Outputs`.

A student's ``see`` reads the frames alone, and its ``forward(frames)`` is what is exported; a teacher's may read what an expert
left beside them.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...backbones.build import Backbone
from ...errors import SonokitError
from ..signals.region_overlap import class_activation_maps
from ..signals.teacher_inputs import GazeEntry, GazeTeacherInput, RegionTeacherInput
from ..signals.terms import Outputs
from .views import SeenBatch


class Learner(nn.Module):
    """What the training loop trains and what a teacher is made of."""

    @property
    @abstractmethod
    def map_channels(self) -> dict[int, int]:
        """Channels of the feature maps that ``see`` can give, by stride."""

    @abstractmethod
    def see(self, seen: SeenBatch, strides: Sequence[int] = (), *, class_maps: bool = False) -> Outputs:
        """All that it says of a batch.

        Args:
            seen: The batch, B views.
            strides: Of the feature maps that are wanted, rising.
            class_maps: Whether class activation maps are wanted.
        """

    @abstractmethod
    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters that came with a backbone, and those that are new: the latter learn faster."""


class Classifier(Learner):
    """A backbone and a linear layer on its features, which starts at zero.

    Args:
        backbone: Frames [B, C, H, W] in [0, 1] → features [B, D].
        classes: Names of the K classes, or of K findings each of which may be there.
        normalise: Standardise the features by their running statistics first, so that a pretrained backbone of whatever scale
            can be begun with (He et al. 2022); it becomes part of the linear layer in use.
    """

    def __init__(self, backbone: Backbone, classes: Sequence[str], *, normalise: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = tuple(classes)
        self.normalise: nn.Module = (
            nn.BatchNorm1d(backbone.num_features, affine=False, eps=1e-6) if normalise else nn.Identity()
        )
        self.classify = nn.Linear(backbone.num_features, len(self.classes))
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)

    @property
    def map_channels(self) -> dict[int, int]:
        """See :class:`Learner`."""
        return self.backbone.map_channels

    def forward(self, frames: Tensor) -> Tensor:
        """Frames, float in [0, 1], [B, 1, H, W] → logits [B, K]."""
        return self._decide(self.backbone(_channels(frames, self.backbone)))

    def see(self, seen: SeenBatch, strides: Sequence[int] = (), *, class_maps: bool = False) -> Outputs:
        """See :class:`Learner`; of the batch it reads the frames."""
        return self.see_frames(seen.frames, strides, class_maps=class_maps)

    def see_frames(self, frames: Tensor, strides: Sequence[int] = (), *, class_maps: bool = False) -> Outputs:
        """What it says of frames, float in [0, 1], [B, 1, H, W]."""
        frames = _channels(frames, self.backbone)
        if not strides and not class_maps:
            features = self.backbone(frames)
            return Outputs(logits=self._decide(features), features=features)
        # timm's networks give the last map only beside another
        wanted = tuple(strides) or tuple(self.backbone.map_channels)[-1:]
        features, maps, last = self.backbone.forward_all(frames, wanted)
        seen = self._class_maps(last) if class_maps else None
        return Outputs(self._decide(features), features, dict(zip(strides, maps, strict=False)), seen)

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """See :class:`Learner`."""
        return list(self.backbone.parameters()), list(self.classify.parameters())

    def _decide(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.normalise(features))
        return logits

    def _class_maps(self, last: Tensor) -> Tensor:
        if last.ndim != 4 or last.shape[1] != self.backbone.num_features:
            raise SonokitError(f"{self.backbone.name} does not decide by the mean of a map: class maps cannot be had")
        weight = self.classify.weight
        if isinstance(self.normalise, nn.BatchNorm1d):
            assert self.normalise.running_var is not None
            weight = weight / (self.normalise.running_var + self.normalise.eps).sqrt()
        return class_activation_maps(last, weight)


class GazeClassifier(Learner):
    """A classifier that is shown where an expert looked (Patra et al., MICCAI 2019); without gaze it is the plain one.

    Args:
        classifier: The plain one; its weights are shared.
        entry: How gaze enters; see :class:`~sonokit.distill.signals.teacher_inputs.GazeTeacherInput`.
        stride: Of the map that gaze multiplies, for "features".
    """

    def __init__(self, classifier: Classifier, entry: GazeEntry = "channel", stride: int | None = None) -> None:
        super().__init__()
        self.classifier = classifier
        self.gaze_input = GazeTeacherInput(classifier.backbone, entry, stride)

    @property
    def map_channels(self) -> dict[int, int]:
        """See :class:`Learner`."""
        return self.classifier.map_channels

    def see(self, seen: SeenBatch, strides: Sequence[int] = (), *, class_maps: bool = False) -> Outputs:
        """See :class:`Learner`; of the batch it reads frames and gaze."""
        gaze = torch.zeros_like(seen.frames[:, :1]) if seen.gaze is None else seen.gaze
        with self.gaze_input.shown(seen.frames, gaze):
            return self.classifier.see_frames(seen.frames, strides, class_maps=class_maps)

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """See :class:`Learner`."""
        old, new = self.classifier.groups()
        stem = self.gaze_input.gaze_stem
        return old, new + ([] if stem is None else list(stem.parameters()))


class RegionClassifier(Learner):
    """A classifier that sees what lies outside the experts' regions dimmed (Schaudt et al., Sci Rep 2023; the form is ours).

    Args:
        classifier: What looks at such frames; its weights are shared.
        dimmed: Brightness that is left outside, 0 to 1.
        edge: Softness of the region's edge, in pixels.
    """

    def __init__(self, classifier: Classifier, dimmed: float = 0.1, edge: float = 3.0) -> None:
        super().__init__()
        self.classifier = classifier
        self.region_input = RegionTeacherInput(dimmed, edge)

    @property
    def map_channels(self) -> dict[int, int]:
        """See :class:`Learner`."""
        return self.classifier.map_channels

    def see(self, seen: SeenBatch, strides: Sequence[int] = (), *, class_maps: bool = False) -> Outputs:
        """See :class:`Learner`; of the batch it reads frames and regions."""
        frames = seen.frames
        if seen.known.regions is not None:
            frames = self.region_input(frames, seen.known.regions, seen.known.annotated)
        return self.classifier.see_frames(frames, strides, class_maps=class_maps)

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """See :class:`Learner`."""
        return self.classifier.groups()


class Ensemble(Learner):
    """Several teachers as one: the logarithm of their mean probability, the mean of their heat maps and class maps.

    Feature maps and features are the first one's: those of networks trained apart cannot be averaged.

    Args:
        members: At least one, of one question.
        several: Whether each of K findings may be there (a sigmoid each) instead of one class (softmax).
    """

    def __init__(self, members: Sequence[Learner], *, several: bool = False) -> None:
        super().__init__()
        if not members:
            raise SonokitError("an ensemble needs at least one member")
        self.members = nn.ModuleList(members)
        self.several = several

    @property
    def map_channels(self) -> dict[int, int]:
        """See :class:`Learner`."""
        first: Learner = self.members[0]  # type: ignore[assignment]
        return first.map_channels

    def see(self, seen: SeenBatch, strides: Sequence[int] = (), *, class_maps: bool = False) -> Outputs:
        """See :class:`Learner`."""
        said = [m.see(seen, strides if k == 0 else (), class_maps=class_maps) for k, m in enumerate(self._all())]
        return Outputs(
            logits=mean_logits([one.logits for one in said], several=self.several),
            features=said[0].features,
            maps=said[0].maps,
            class_maps=_mean([one.class_maps for one in said]),
            heat_maps=_mean([one.heat_maps for one in said]),
        )

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """See :class:`Learner`."""
        pairs = [member.groups() for member in self._all()]
        return [p for old, _ in pairs for p in old], [p for _, new in pairs for p in new]

    def _all(self) -> list[Learner]:
        return list(self.members)  # type: ignore[arg-type]


def mean_logits(logits: Sequence[Tensor | None], *, several: bool) -> Tensor | None:
    """Logits of the mean of the members' probabilities, [B, K]; None where a member has none."""
    there = [one for one in logits if one is not None]
    if len(there) < len(logits):
        return None
    stacked = torch.stack(there)  # [M, B, K]
    count = torch.log(torch.tensor(float(len(there))))
    if not several:
        return stacked.log_softmax(dim=2).logsumexp(dim=0) - count
    yes = nn.functional.logsigmoid(stacked).logsumexp(dim=0)
    return yes - nn.functional.logsigmoid(-stacked).logsumexp(dim=0)


def _mean(maps: Sequence[Tensor | None]) -> Tensor | None:
    there = [one for one in maps if one is not None]
    return torch.stack(there).mean(dim=0) if there and len(there) == len(maps) else None


def _channels(frames: Tensor, backbone: Backbone) -> Tensor:
    return frames if frames.shape[1] == backbone.in_chans else frames.expand(-1, backbone.in_chans, -1, -1)
