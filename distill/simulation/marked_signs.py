"""Images whose deciding sign an expert has marked, with a shortcut outside that makes unguided training fail.

A lesion lies somewhere in the tissue; bright specks in it make it class 1. Similar specks lie elsewhere in the tissue by lot. A
burnt-in cross, such as some machines leave, goes with the class in as many of the training images as ``shortcut`` says, and not
in a test (``shortcut=0``). The expert's region is a loose, uneven line about the lesion.

    train, test = simulate_marked_signs(300, shortcut=0.9, seed=0), simulate_marked_signs(300, shortcut=0.0, seed=1)
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ...errors import SonokitError
from ..training.views import Views
from .canvas import Canvas, Ellipse, Machine
from .tissue import free_places, tissue

SIGN_CLASSES = ("plain", "specks")
"""What the lesion is like."""


@dataclass(frozen=True, eq=False)
class MarkedImages:
    """N images with marked signs.

    Attributes:
        frames: uint8 [N, H, W].
        classes: int64 [N].
        marked: Whether the burnt-in cross is there, bool [N].
        regions: 255 where the expert marked, uint8 [N, H, W]; 0 everywhere in images that are not annotated.
        annotated: Which images were marked, bool [N].
        signs: 255 in the lesion itself, uint8 [N, H, W].
        seed: That they were drawn by.
    """

    frames: np.ndarray
    classes: np.ndarray
    marked: np.ndarray
    regions: np.ndarray
    annotated: np.ndarray
    signs: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the two classes."""
        return SIGN_CLASSES

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images, N."""
        return tuple(f"sign-{self.seed}-{n:05d}" for n in range(len(self)))

    @property
    def subjects(self) -> np.ndarray:
        """Each image is of another patient, str [N]."""
        return np.array(self.images)

    def views(self, rows: np.ndarray | None = None) -> Views:
        """Some of them as views, with labels, regions and which are annotated.

        Args:
            rows: Mask [N] or numbers; None for all. The views' ``items`` are numbers among all.
        """
        numbers = np.arange(len(self))
        whole = Views(self.frames, numbers, labels=self.classes, regions=self.regions, annotated=self.annotated)
        return whole if rows is None else whole.take(rows)


def simulate_marked_signs(
    n: int,
    *,
    shortcut: float,
    size: tuple[int, int] = (64, 64),
    speck_db: float = 26.0,
    cross: int = 200,
    distractors: int = 3,
    annotated: float = 1.0,
    seed: int,
) -> MarkedImages:
    """Draw ``n`` images, half of each class; the same arguments draw the same.

    Args:
        n: How many.
        shortcut: Correlation of the cross with the class, 0 (none) to 1 (whenever class 1 and only then); as exactly as ``n``
            allows.
        size: (width, height) in pixels.
        speck_db: How much brighter than the tissue the specks are: how easily the sign is read.
        cross: Grey value of the cross, 0 to 255.
        distractors: Groups of specks outside the lesion, at most.
        annotated: Share of images that the expert marked.
        seed: Another one draws other images.

    Raises:
        SonokitError: A number that cannot be.
    """
    if n < 4 or min(size) < 32 or distractors < 0 or not (0 <= shortcut <= 1 and 0 <= annotated <= 1 and 0 <= cross <= 255):
        raise SonokitError(
            f"at least 4 images of 32 × 32, shares from 0 to 1 and grey values up to 255 are needed, got {n}, {size}, shortcut "
            f"{shortcut}, annotated {annotated}, cross {cross} and {distractors} distractors"
        )
    draw = np.random.default_rng([seed, 0])
    classes = draw.permutation(np.arange(n) % 2).astype(np.int64)
    marked = np.zeros(n, dtype=bool)
    for kind in (0, 1):  # a share (1 + shortcut) / 2 of class 1 has the cross, and (1 - shortcut) / 2 of class 0
        own = draw.permutation(np.flatnonzero(classes == kind))
        marked[own[: round(len(own) * (1 + (2 * kind - 1) * shortcut) / 2)]] = True
    known = np.zeros(n, dtype=bool)
    known[draw.permutation(n)[: round(annotated * n)]] = True
    frames, regions, signs = (np.zeros((n, size[1], size[0]), dtype=np.uint8) for _ in range(3))
    for number, kind in enumerate(classes.tolist()):
        rng = np.random.default_rng([seed, number, 1])
        frames[number], lesion, canvas = _draw(kind, size, speck_db, distractors, rng)
        x, y = canvas.millimetres()
        signs[number] = np.where(lesion.distance(x, y) <= 0, 255, 0)
        regions[number] = 255 * loose_region(lesion, x, y, rng)
        if marked[number]:
            _burn_in(frames[number], cross, at_left=lesion.centre[0] > 0, rng=rng)
    regions[~known] = 0
    return MarkedImages(frames, classes, marked, regions, known, signs, seed)


def loose_region(lesion: Ellipse, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What an expert draws about a lesion: bigger, uneven, a little beside it; bool, the shape of x and y (mm).

    All of the lesion is inside.
    """
    angle = lesion.angle(x, y)
    wave = sum(rng.uniform(0, 0.5) * np.sin(k * angle + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3))
    reach = 0.22 * np.mean(lesion.radii) * (rng.uniform(1.6, 2.6) + wave)
    return np.asarray(lesion.distance(x, y) <= reach)


def _draw(
    kind: int, size: tuple[int, int], speck_db: float, distractors: int, rng: np.random.Generator
) -> tuple[np.ndarray, Ellipse, Canvas]:
    canvas = tissue(size, rng)
    unit = min(size) / 64
    places = canvas.places(free_places(1 + int(rng.integers(0, distractors + 1)), size, 17 * unit, 13 * unit, rng))
    ground = float(canvas.level.mean())
    turn = float(rng.uniform(0, np.pi))
    lesion = Ellipse((float(places[0][0]), float(places[0][1])), (rng.uniform(8, 10), rng.uniform(6, 8)), turn)
    canvas.fill(lesion.distance(canvas.x, canvas.y), ground - 16, edge=1.2)
    for nth, place in enumerate(places):
        if nth > 0 or kind == 1:
            _specks(canvas, place, ground + speck_db, rng)
    return canvas.image(rng, Machine(gain_db=rng.uniform(-3, 3), dynamic_range_db=64, looks=4)), lesion, canvas


def _specks(canvas: Canvas, place: np.ndarray, level_db: float, rng: np.random.Generator) -> None:
    """Three bright specks close together."""
    start = rng.uniform(0, 2 * np.pi)
    for turn in start + np.arange(3) * 2 * np.pi / 3:
        middle = place + rng.uniform(2.2, 3.2) * np.array([np.cos(turn), np.sin(turn)])
        speck = Ellipse((float(middle[0]), float(middle[1])), (1.3, 1.3))
        canvas.fill(speck.distance(canvas.x, canvas.y), level_db, edge=0.6)


def _burn_in(frame: np.ndarray, grey: int, *, at_left: bool, rng: np.random.Generator) -> None:
    """A cross in one of the upper corners: the one away from the lesion, so that no region reaches it."""
    height, width = frame.shape
    arm = max(2, height // 20)
    row = height // 8 + int(rng.integers(-1, 2))
    column = (width // 9 if at_left else width - 1 - width // 9) + int(rng.integers(-1, 2))
    shape = np.zeros((height, width), dtype=bool)
    shape[row - arm : row + arm + 1, column] = shape[row, max(column - arm, 0) : column + arm + 1] = True
    frame[ndimage.binary_dilation(shape, iterations=max(1, height // 96))] = grey
