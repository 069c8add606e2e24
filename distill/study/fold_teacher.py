"""The teacher of one fold: what is fitted already as it is, what is not fitted on the fold's training clips, all as one."""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ...atomic import atomic_path
from ...clips.augment import resize
from ..signals.response import Kind
from ..signals.weighted import read_signals
from ..training.augmented import AugmentSettings, augmented
from ..training.learners import Classifier, Ensemble, GazeClassifier, Learner, RegionClassifier, mean_logits
from ..training.loop import LoopSettings, train
from ..training.soft_labels import SoftLabels
from ..training.taught import Taught, ask
from ..training.teachers import Source, seeded_twin
from ..training.views import Views, clip_views
from .asked import Asked
from .expert_knowledge import Knowledge
from .settings import DistillSettings, for_question, label_weights

_TEACHER_SEED = 1000  # apart from the students' draws


@dataclass(frozen=True, eq=False)
class FoldTeacher:
    """All that teaches in one fold.

    Attributes:
        network: The networks as one; None where only files of predictions teach.
        members: How many networks that is.
        soft_labels: Files of predictions.
        kind: Of the question.
        fitted: Those that were fitted here, without what gaze or regions entered by.
    """

    network: Learner | None
    members: int
    soft_labels: tuple[SoftLabels, ...]
    kind: Kind
    fitted: tuple[Classifier, ...] = ()

    @property
    def map_channels(self) -> dict[int, int]:
        """Channels of the feature maps that it can show, by stride."""
        return {} if self.network is None else self.network.map_channels

    def teach(
        self,
        views: Views,
        clip_ids: np.ndarray,
        strides: Sequence[int] = (),
        *,
        shelf: Path | None = None,
        device: torch.device | str = "cpu",
        progress: str | None = None,
    ) -> Taught:
        """What it says of N views; probabilities of networks and files count alike.

        Args:
            views: N views.
            clip_ids: Names of the study's clips, which ``views.items`` are rows of.
            strides: Of the feature maps that are wanted.
            shelf: Where the networks' answers are kept, beside those to other views; None keeps them in memory.
            device: Where to work.
            progress: Name of a progress bar on standard error; None for none.
        """
        said = Taught()
        if self.network is not None:
            said = ask(self.network, views, strides, shelf=shelf, device=device, progress=progress)
        if not self.soft_labels:
            return said
        own = [] if said.logits is None else [torch.from_numpy(np.array(said.logits))] * self.members
        told: list[Tensor | None] = [*own, *(torch.from_numpy(one.logits(clip_ids[views.items])) for one in self.soft_labels)]
        together = mean_logits(told, several=self.kind == "several")
        assert together is not None
        return replace(said, logits=together.numpy())


def fold_teacher(
    sources: Sequence[Source],
    asked: Asked,
    rows: np.ndarray,
    settings: DistillSettings,
    knowledge: Knowledge | None,
    *,
    fold: int | None,
    place: Path,
    device: torch.device,
    progress: Callable[[str], str | None],
) -> FoldTeacher:
    """Make the teacher of a fold.

    Args:
        sources: What the user named.
        asked: The question.
        rows: The training clips, int64 [M].
        settings: How a teacher is fitted.
        knowledge: Gaze or regions that teachers which are fitted here are shown; None for none.
        fold: Its number; None: the final teacher.
        place: A folder for the fitted ones, from where they are read if nothing has changed. Students have no part in their
            names: several studies, also at one time, may share it.
        device: Where to work.
        progress: What is going on -> name of the progress bar, or None.
    """
    side = teacher_side(settings, sources)
    networks: list[Learner] = []
    fitted: list[Classifier] = []
    for number, source in enumerate(sources):
        if source.network is not None:
            networks.append(source.network)
        elif source.extractors is not None:
            networks.append(source.extractors.network(fold))
        elif source.backbone is not None:
            for member in range(settings.members):
                seed = seed_of(settings.seed, fold, _TEACHER_SEED + 100 * number + member)
                classifier = Classifier(seeded_twin(source.backbone, source, member, settings.seed), asked.classes)
                learner = _shown(classifier, knowledge)
                told = progress(f"teacher {member + 1} of {settings.members}")
                identity = _identity(source, asked, rows, settings, knowledge, (side, seed), device.type)
                file = place / f"{identity}.safetensors"
                _fit(learner, source, asked, rows, settings, knowledge, (side, seed), (file, identity), device, told)
                networks.append(learner)
                fitted.append(classifier)
    return _together(networks, fitted, sources, asked)


def unfitted_teacher(sources: Sequence[Source], asked: Asked, knowledge: Knowledge | None) -> FoldTeacher:
    """A teacher of the same parts before anything is fitted, one member of each: for what it can show, not for what it says."""
    networks: list[Learner] = []
    for source in sources:
        if source.network is not None:
            networks.append(source.network)
        elif source.extractors is not None:
            networks.append(source.extractors.network(None))
        elif source.backbone is not None:
            networks.append(_shown(Classifier(copy.deepcopy(source.backbone), asked.classes), knowledge))
    return _together(networks, [], sources, asked)


def base_views(asked: Asked, rows: np.ndarray, size: int, frames_per_clip: int | None, knowledge: Knowledge | None) -> Views:
    """Views of some clips as a teacher sees them; ``rows`` int64 [M]."""
    views = clip_views(asked.clips, rows, asked.truth, size=size, frames_per_clip=frames_per_clip)
    return views if knowledge is None else knowledge.on(views, frames_per_clip)


def at_size(views: Views, size: int) -> Views:
    """The same views at another size, for a student that sees smaller frames than its teacher; regions go along."""
    if views.size == (size, size):
        return views

    def shrunk(frames: np.ndarray) -> np.ndarray:
        parts = (torch.from_numpy(np.ascontiguousarray(part))[:, None].float().div_(255) for part in np.array_split(frames, 32))
        return np.concatenate([resize(part, size)[:, 0].mul_(255).round_().byte().numpy() for part in parts if len(part)])

    regions = None if views.regions is None else shrunk(views.regions)
    return replace(views, frames=shrunk(views.frames), regions=regions)


def augmentation(settings: DistillSettings, knowledge: Knowledge | None) -> AugmentSettings:
    """How views are augmented: gaze and regions move along in "affine" only."""
    return AugmentSettings(recipe=settings.augment or ("ultrasound" if knowledge is None else "affine"))


def seed_of(seed: int, fold: int | None, role: int) -> int:
    """A seed of its own for each fold (None: the final one) and role."""
    return int(np.random.SeedSequence([seed, 0 if fold is None else fold + 1, role]).generate_state(1)[0])


def hashed(parts: Any) -> str:
    """16 hex digits of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def teacher_side(settings: DistillSettings, sources: Sequence[Source]) -> int:
    """Side of the frames that teachers see: the largest that is asked for or that a fitted one wants."""
    sides = [source.size for source in sources if source.size is not None]
    return max([settings.size, settings.teacher_size or 0, *sides])


def _together(
    networks: Sequence[Learner], fitted: Sequence[Classifier], sources: Sequence[Source], asked: Asked
) -> FoldTeacher:
    tables = tuple(source.soft_labels for source in sources if source.soft_labels is not None)
    several = asked.kind == "several"
    network = networks[0] if len(networks) == 1 else Ensemble(networks, several=several) if networks else None
    return FoldTeacher(network, len(networks), tables, asked.kind, tuple(fitted))


def _shown(classifier: Classifier, knowledge: Knowledge | None) -> Learner:
    if knowledge is None:
        return classifier
    return GazeClassifier(classifier) if knowledge.gaze is not None else RegionClassifier(classifier)


def _fit(
    learner: Learner,
    source: Source,
    asked: Asked,
    rows: np.ndarray,
    settings: DistillSettings,
    knowledge: Knowledge | None,
    drawn: tuple[int, int],
    kept: tuple[Path, str],
    device: torch.device,
    progress: str | None,
) -> None:
    """Fit it in place as ``evaluation.fine_tune`` does: a view of each frame an epoch, drawn anew; or read it from ``kept``."""
    (file, identity), (side, seed) = kept, drawn
    if _read(learner, file, identity):
        return
    views = base_views(asked, rows, side, settings.frames_per_clip, knowledge)
    how = augmentation(settings, knowledge)
    wanted = for_question({"labels": {}}, asked.kind, label_weights(asked.truth[rows], asked.kind, len(asked.classes)))
    loop = LoopSettings(
        epochs=settings.teacher_epochs,
        batch=32,
        backbone_learning_rate=1e-4 if source.pretrained else None,
        batch_norm="frozen" if source.pretrained else "batch",
        seed=seed,
    )

    def fresh(epoch: int) -> tuple[Views, None]:
        return augmented(views, 1, how, seed=seed_of(seed, epoch, 1)), None

    train(learner, views, read_signals(wanted), settings=loop, device=device, progress=progress, fresh=fresh)
    with atomic_path(file) as temporary:
        safetensors.torch.save_file(_once(learner), temporary, metadata={"identity": identity})


def _read(learner: Learner, file: Path, identity: str) -> bool:
    if not file.is_file():
        return False
    try:
        with safetensors.safe_open(file, framework="pt") as content:
            if (content.metadata() or {}).get("identity") != identity:
                return False
        tensors = safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError):
        return False  # damaged: fitted again
    missing, unexpected = learner.load_state_dict(tensors, strict=False)
    if unexpected or set(missing) & set(_once(learner)):
        return False
    learner.eval()
    return True


def _once(learner: Learner) -> dict[str, Tensor]:
    """Its tensors, each once: a teacher that is shown gaze has its backbone under two names."""
    kept: dict[int, tuple[str, Tensor]] = {}
    for name, value in learner.state_dict().items():
        kept.setdefault(value.data_ptr(), (name, value.detach().cpu().contiguous()))
    return dict(kept.values())


def _identity(
    source: Source,
    asked: Asked,
    rows: np.ndarray,
    settings: DistillSettings,
    knowledge: Knowledge | None,
    drawn: tuple[int, int],
    device: str,
) -> str:
    """Of a fitted teacher; nothing of a student is part of it but the side of its frames, where the teacher's is the same."""
    names = ("frames_per_clip", "augment", "teacher_epochs")
    chosen = {name: getattr(settings, name) for name in names}
    known = None if knowledge is None else knowledge.fingerprint
    own = [source.fingerprint, source.pretrained]
    return hashed(["teacher 1", chosen, *own, asked.fingerprint(rows), known, drawn, device])
