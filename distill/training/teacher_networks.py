"""Fitted networks as teachers: brought to the frames that they know, and to the question that is asked."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from ...clips.augment import resize
from ...errors import SonokitError
from ...features.extractors.biomarkers import BiomarkerExtractor
from ..signals.terms import Batch, Outputs
from .learners import Learner
from .views import SeenBatch


class AsAsked(Learner):
    """A teacher that was made elsewhere: frames come to its size, its logits into the order that is asked for.

    Args:
        learner: The teacher.
        size: Side of the frames that it was trained on.
        columns: Of its logits, those that are asked for, in that order.
    """

    def __init__(self, learner: Learner, size: int, columns: Sequence[int]) -> None:
        super().__init__()
        self.learner = learner
        self.size = size
        self.columns = list(columns)

    @property
    def map_channels(self) -> dict[int, int]:
        """See :class:`~sonokit.distill.training.learners.Learner`."""
        return self.learner.map_channels

    def forward(self, frames: Tensor) -> Tensor:
        """Frames, float in [0, 1], [B, 1, H, W] → logits [B, K]."""
        out: Tensor = self.learner(resize(frames, self.size))
        return out[:, self.columns]

    def see(self, seen: SeenBatch, strides: Sequence[int] = (), *, class_maps: bool = False) -> Outputs:
        """See :class:`~sonokit.distill.training.learners.Learner`."""
        said = self.learner.see(replace(seen, frames=resize(seen.frames, self.size)), strides, class_maps=class_maps)
        logits = None if said.logits is None else said.logits[:, self.columns]
        maps = None if said.class_maps is None else said.class_maps[:, self.columns]
        return replace(said, logits=logits, class_maps=maps)

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """See :class:`~sonokit.distill.training.learners.Learner`."""
        return self.learner.groups()


class ExtractorTeacher(Learner):
    """A biomarker extractor that looks at single frames: what it would say of a clip that shows this frame alone.

    Args:
        extractor: The extractor.
        findings: Those of its biomarkers that are asked for, in that order.
        name: Of the extractor, for messages.

    Raises:
        SonokitError: It lacks a finding, or sees several frames at a time (temporal shift).
    """

    def __init__(self, extractor: BiomarkerExtractor, findings: Sequence[str], name: str = "the extractor") -> None:
        super().__init__()
        absent = [one for one in findings if one not in extractor.biomarkers]
        if absent:
            raise SonokitError(f"{name} knows {', '.join(extractor.biomarkers)}, not {absent[0]}: name labels that it knows")
        if extractor.backbone.temporal_shift:
            raise SonokitError(
                f"{name} looks at several frames at a time (temporal shift) and cannot teach single frames: train one without "
                "--temporal_shift"
            )
        self.extractor = extractor
        self.size = extractor.size
        self.columns = [extractor.biomarkers.index(one) for one in findings]

    @property
    def map_channels(self) -> dict[int, int]:
        """See :class:`~sonokit.distill.training.learners.Learner`."""
        return self.extractor.backbone.map_channels

    def forward(self, frames: Tensor) -> Tensor:
        """Frames, float in [0, 1], [B, 1, H, W] → calibrated logits [B, K]."""
        logits = self.see(SeenBatch(frames, Batch())).logits
        assert logits is not None
        return logits

    def see(self, seen: SeenBatch, strides: Sequence[int] = (), *, class_maps: bool = False) -> Outputs:
        """See :class:`~sonokit.distill.training.learners.Learner`; the features are the extractor's embedding."""
        if class_maps:
            raise SonokitError("an extractor has no class activation maps: leave the signal out that asks for the teacher's")
        backbone, head = self.extractor.backbone, self.extractor.head
        frames = resize(seen.frames, self.size).expand(-1, backbone.in_chans, -1, -1)
        features, maps = backbone.forward_maps(frames, strides) if strides else (backbone(frames), [])
        embedding, logits = head(features.float())
        calibrated = head.calibration_slope * logits + head.calibration_intercept
        return Outputs(calibrated[:, self.columns], embedding, dict(zip(strides, maps, strict=True)))

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """See :class:`~sonokit.distill.training.learners.Learner`."""
        return list(self.extractor.backbone.parameters()), list(self.extractor.head.parameters())
