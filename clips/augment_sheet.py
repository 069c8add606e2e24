"""A picture of what an augmentation does to the clips at hand, to look at before a long run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from ..atomic import atomic_path
from ..errors import SonokitError
from .augment import Augment, AugmentName, augment_named
from .augment_sector import mask_outside_sector
from .augment_ultrasound import OPERATIONS, Operations
from .cached_clips import CachedClips

_TRIES = 8
_FULL_DRAWS = 3
_ENDINGS = (".png", ".jpg", ".pdf", ".svg")
_CELL_INCHES = 1.25


@dataclass(frozen=True)
class SheetSettings:
    """What a sheet shows.

    Attributes:
        augment: The recipe: "ultrasound", "reference" or "none".
        strength: Of "ultrasound".
        mask_sector: Blank what lies outside of the sector first.
        size: Side of the augmented frames in pixels.
        seed: Of everything random.

    Raises:
        SonokitError: A recipe that does not exist, a size below 8, a strength or seed below 0.
    """

    augment: AugmentName = "ultrasound"
    strength: float = 1.0
    mask_sector: bool = False
    size: int = 224
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 8 or self.seed < 0:
            raise SonokitError(f"a sheet needs a size of 8 or more and a seed of 0 or more, not {self.size} and {self.seed}")
        self.recipe()

    def recipe(self, operations: Operations | None = None) -> Augment:
        """The whole augmentation, or with other operations."""
        return augment_named(self.augment, self.size, self.strength, operations=operations, mask_sector=self.mask_sector)


def write_sheet(clips: CachedClips, out: Path, settings: SheetSettings) -> Path:
    """One row a clip; columns: its middle frame, each single operation, then whole draws as training sees them.

    A single operation is shown as the strongest of eight draws, because most draws of it are weak; the whole ones are ordinary.

    Args:
        clips: At most 20.
        out: A .png, .jpg, .pdf or .svg file; replaced where it exists.
        settings: What to show.

    Returns:
        ``out``.

    Raises:
        SonokitError: Another ending, or too many clips for one picture.
    """
    out = Path(out)
    if out.suffix.lower() not in _ENDINGS:
        raise SonokitError(f"a sheet is a picture, so --out ends in {', '.join(_ENDINGS)}; {out.name!r} does not")
    if not 1 <= len(clips) <= 20:
        raise SonokitError(f"a sheet shows 1 to 20 clips, not {len(clips)}; choose another --rows")
    names = [str(name) for name in clips.table["clip_id"]]
    rows = [list(_cells(clips[i].frames, settings, i)) for i in range(len(clips))]
    figure = _figure(rows, names, _title(settings))
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format=out.suffix.lower().lstrip("."), dpi=130)
    return out


def spread_over(count: int, rows: int) -> np.ndarray:
    """Which of ``count`` clips stand for all: ``rows`` of them, evenly spaced; bool [count].

    Raises:
        SonokitError: Fewer than 1 row, or more than 20.
    """
    if not 1 <= rows <= 20:
        raise SonokitError(f"--rows must be 1 to 20, it is {rows}")
    keep = np.zeros(count, dtype=bool)
    keep[np.linspace(0, count - 1, min(rows, count)).round().astype(int)] = True
    return keep


def _cells(frames: np.ndarray, settings: SheetSettings, row: int) -> Iterator[tuple[str, np.ndarray]]:
    """Title and picture [S, S] of a row's cells, from a clip's uint8 [T, S, S]."""
    clip = torch.from_numpy(frames[np.linspace(0, len(frames) - 1, 3).round().astype(int)])  # [3, S, S]: begin, middle, end
    batch = clip[None, :, None]  # [1, 3, 1, S, S]
    plain = augment_named("none", settings.size)
    original = _middle(plain, batch, 0)
    yield "original", original
    if settings.mask_sector:
        yield "sector only", _middle(plain, mask_outside_sector(batch), 0)
    if settings.augment == "ultrasound":
        for name in OPERATIONS:
            single = settings.recipe(Operations.only(name))
            draws = [_middle(single, batch, _seed(settings, row, draw)) for draw in range(_TRIES)]
            yield _label(name), max(draws, key=lambda draw: float(np.abs(draw - original).mean()))
    whole = settings.recipe()
    for draw in range(_FULL_DRAWS if settings.augment != "none" else 1):
        yield f"all, draw {draw + 1}", _middle(whole, batch, _seed(settings, row, draw))


def _middle(augment: Augment, batch: Tensor, seed: int) -> np.ndarray:
    """The second of the augmented frames, [S, S] in [0, 1]."""
    return augment(batch, torch.Generator().manual_seed(seed))[0, 1, 0].numpy()


def _seed(settings: SheetSettings, row: int, draw: int) -> int:
    return int(np.random.SeedSequence([settings.seed, row, draw]).generate_state(1)[0])


def _label(name: str) -> str:
    return name if getattr(Operations(), name) else f"{name}\n(off unless asked)"


def _title(settings: SheetSettings) -> str:
    strength = f", strength {settings.strength:g}" if settings.augment == "ultrasound" else ""
    single = "; single operations: the strongest of eight draws" if settings.augment == "ultrasound" else ""
    return f"augmentation {settings.augment!r}{strength}, {settings.size} pixels{single}"


def _figure(rows: list[list[tuple[str, np.ndarray]]], names: list[str], title: str) -> Figure:
    columns = len(rows[0])
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(_CELL_INCHES * columns + 0.4, (_CELL_INCHES + 0.02) * len(rows) + 0.8), layout=layout)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (cells, name) in enumerate(zip(rows, names, strict=True)):
        for column, (label, picture) in enumerate(cells):
            cell = axes[row, column]
            cell.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
            cell.set(xticks=[], yticks=[])
            if row == 0:
                cell.set_title(label, fontsize=8)
        axes[row, 0].set_ylabel(name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}", fontsize=6)
    figure.suptitle(title, fontsize=9)
    return figure
