"""From an objective's name and settings to the objective."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from ...backbones.build import Backbone
from ...errors import SonokitError
from .byol import BYOL
from .dino import DINO
from .hico import HiCo
from .moco import MoCo
from .objective import Objective
from .simclr import SimCLR
from .uscl import USCL

ObjectiveName = Literal["uscl", "simclr", "moco", "byol", "dino", "hico"]

OBJECTIVES: dict[ObjectiveName, type[Objective]] = {
    "uscl": USCL,
    "simclr": SimCLR,
    "moco": MoCo,
    "byol": BYOL,
    "dino": DINO,
    "hico": HiCo,
}
USES_LABELS: tuple[ObjectiveName, ...] = ("uscl", "hico")
HAS_TEMPERATURE: tuple[ObjectiveName, ...] = ("uscl", "simclr", "moco", "dino", "hico")
HAS_MOMENTUM: tuple[ObjectiveName, ...] = ("moco", "byol", "dino")


@dataclass(frozen=True)
class ObjectiveSettings:
    """What decides an objective.

    Attributes:
        name: One of ``OBJECTIVES``.
        temperature: Of the contrast, or of DINO's student; None is the method's own (uscl, simclr, hico .5; moco .2; dino .1).
        label_weight: λ of the labels' cross-entropy (uscl, hico).
        classify: What uscl's classifier sees: "projection" (the reference) or "features"; hico's sees the features.
        momentum: Of the moving copy, in [0, 1); None is the method's own (moco .99; byol and dino .996, rising to 1).
        queue: Keys in moco's queue.
        outputs: Of dino's head.
    """

    name: ObjectiveName = "uscl"
    temperature: float | None = None
    label_weight: float = 0.2
    classify: Literal["projection", "features"] = "projection"
    momentum: float | None = None
    queue: int = 1024
    outputs: int = 4096


def build_objective(settings: ObjectiveSettings, backbone: Backbone, classes: int = 0) -> Objective:
    """The objective around ``backbone``; the global generator decides its heads' weights.

    Args:
        settings: What is wanted.
        backbone: The network to train.
        classes: Number of classes of the labels to learn from; 0 for none.

    Raises:
        SonokitError: An unknown name, a value out of range, or a setting, labels or a backbone that the method has no use for.
    """
    if settings.name not in OBJECTIVES:
        raise SonokitError(f"unknown objective {settings.name!r}; choose one of {', '.join(get_args(ObjectiveName))}")
    faults = method_faults(settings, labelled=classes > 0)
    if faults:
        raise SonokitError("; ".join(faults))
    options: dict[str, Any] = {k: getattr(settings, k) for k in ("temperature", "momentum") if getattr(settings, k) is not None}
    if settings.name in USES_LABELS:
        options |= {"classes": classes, "label_weight": settings.label_weight}
    if settings.name == "uscl":
        options["classify"] = settings.classify
    if settings.name == "moco":
        options["queue"] = settings.queue
    if settings.name == "dino":
        options["outputs"] = settings.outputs
    return OBJECTIVES[settings.name](backbone, **options)


def method_faults(settings: ObjectiveSettings, *, labelled: bool) -> list[str]:
    """What is wrong with the settings of a known method, as sentences; ``labelled``: whether there are labels to learn from."""
    return [*_out_of_range(settings), *_without_use(settings, labelled)]


def _out_of_range(settings: ObjectiveSettings) -> list[str]:
    faults = []
    if settings.temperature is not None and not settings.temperature > 0:
        faults.append(f"temperature must be above 0, it is {settings.temperature}")
    if settings.momentum is not None and not 0 <= settings.momentum < 1:
        faults.append(f"momentum must lie in [0, 1), it is {settings.momentum}: with 1 the copy would never move")
    if not settings.label_weight >= 0:
        faults.append(f"label_weight must be at least 0, it is {settings.label_weight}")
    if settings.queue < 1:
        faults.append(f"queue must be at least 1, it is {settings.queue}")
    if settings.classify not in ("projection", "features"):
        faults.append(f'classify must be "projection" or "features", it is {settings.classify!r}')
    return faults


def _without_use(settings: ObjectiveSettings, labelled: bool) -> list[str]:
    name, faults = settings.name, []
    if labelled and name not in USES_LABELS:
        faults.append(f"{name} has no use for labels; leave the label out, or choose {' or '.join(USES_LABELS)}")
    if settings.temperature is not None and name not in HAS_TEMPERATURE:
        faults.append(f"{name} has no temperature; leave it out, or choose one of {', '.join(HAS_TEMPERATURE)}")
    if settings.momentum is not None and name not in HAS_MOMENTUM:
        faults.append(f"{name} has no momentum copy; leave momentum out, or choose one of {', '.join(HAS_MOMENTUM)}")
    return faults
