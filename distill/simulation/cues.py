"""The cue task: one small sign decides the class, and signs that look like it are strewn about.

Several spots of fluid lie in the tissue, each empty or with a nodule in it. The deciding spot alone has a bright wall: whether
a nodule is in it is the class; of the others it is drawn by lot. Whoever is shown where an expert looked has an easy task.
Whoever sees frames alone can learn it too, but must find out that the wall matters, from few labels, a share of which is wrong:
that is where soft labels and feature maps of a teacher that was shown gaze can help.

    train, test = simulate_cues(400, label_noise=0.25, seed=0), simulate_cues(400, seed=1)
"""

from dataclasses import dataclass

import numpy as np

from ...errors import SonokitError
from ..knowledge.gaze import Gaze
from ..training.views import Views
from .canvas import NOTHING_DB, Canvas, Ellipse, Machine
from .gaze import Looking, gaze_maps, simulate_gaze
from .tissue import free_places, tissue

CUE_CLASSES = ("empty", "nodule")
"""What is in the deciding spot."""


@dataclass(frozen=True, eq=False)
class CueImages:
    """N images of the cue task.

    Attributes:
        frames: uint8 [N, H, W].
        classes: True ones, int64 [N].
        given: Labels as they are given, a share of them wrong, int64 [N].
        spots: Middle of the deciding spot (x, y) in pixels, float64 [N, 2].
        distractors: Middles of the others, float64 [N, D, 2], nan where there was no room.
        regions: 255 in the deciding spot, its wall included, uint8 [N, H, W].
        gaze: A simulated sonographer's fixations on each.
        gaze_maps: Of them, 255 at the peak, uint8 [N, H, W].
        seed: That they were drawn by.
    """

    frames: np.ndarray
    classes: np.ndarray
    given: np.ndarray
    spots: np.ndarray
    distractors: np.ndarray
    regions: np.ndarray
    gaze: list[Gaze]
    gaze_maps: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the two classes."""
        return CUE_CLASSES

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images, N."""
        return tuple(f"cue-{self.seed}-{n:05d}" for n in range(len(self)))

    @property
    def subjects(self) -> np.ndarray:
        """Each image is of another patient, str [N]."""
        return np.array(self.images)

    def views(self, rows: np.ndarray | None = None, *, true: bool = False, labelled: int | None = None) -> Views:
        """Some of them as views, with labels, gaze maps and regions.

        Args:
            rows: Mask [N] or numbers; None for all. The views' ``items`` are numbers among all.
            true: Whether with the true classes, as for a test, not with the given labels.
            labelled: Only the first so many of all images have labels, the others -1; None: all have.
        """
        labels = (self.classes if true else self.given).copy()
        if labelled is not None:
            labels[labelled:] = -1
        whole = Views(self.frames, np.arange(len(self)), labels=labels, regions=self.regions, gaze=self.gaze_maps)
        return whole if rows is None else whole.take(rows)


def simulate_cues(
    n: int,
    *,
    size: tuple[int, int] = (64, 64),
    distractors: int = 3,
    contrast_db: float = 10.0,
    sign_db: float = 26.0,
    noise_db: float = -56.0,
    label_noise: float = 0.0,
    looking: Looking | None = None,
    seed: int,
) -> CueImages:
    """Draw ``n`` images, half of each class; the same arguments draw the same.

    Args:
        n: How many.
        size: (width, height) in pixels.
        distractors: Spots without a wall; fewer where there is no room.
        contrast_db: How much brighter than the tissue the deciding spot's wall is: how easily it is told from the others.
        sign_db: How much brighter than the tissue nodules are: how easily the sign is read.
        noise_db: Level of the electronic noise.
        label_noise: Share of the given labels that is wrong, as a reader's may be; exactly this share, rounded.
        looking: How the simulated sonographer looks; None: the defaults. Also the distractors are looked at.
        seed: Another one draws other images.

    Raises:
        SonokitError: A number that cannot be.
    """
    if n < 2 or distractors < 0 or min(size) < 32 or not 0 <= label_noise <= 1:
        raise SonokitError(
            f"at least 2 images of 32 × 32, 0 distractors and a label_noise from 0 to 1 are needed, got {n}, {size}, "
            f"{distractors} and {label_noise}"
        )
    draw = np.random.default_rng([seed, 0])
    classes = draw.permutation(np.arange(n) % 2).astype(np.int64)
    wrong = draw.permutation(n)[: round(label_noise * n)]
    given = classes.copy()
    given[wrong] = 1 - given[wrong]
    frames = np.zeros((n, size[1], size[0]), dtype=np.uint8)
    regions = np.zeros_like(frames)
    places = np.full((n, 1 + distractors, 2), np.nan)
    looks = []
    for number, kind in enumerate(classes.tolist()):
        rng = np.random.default_rng([seed, number, 1])
        unit = min(size) / 64
        found = free_places(1 + distractors, size, 19 * unit, 10 * unit, rng)
        places[number, : len(found)] = found
        signs = np.concatenate([[kind], rng.integers(0, 2, len(found) - 1)])
        canvas = tissue(size, rng)
        ground = float(canvas.level.mean())
        for nth, (place, sign) in enumerate(zip(canvas.places(found), signs.tolist(), strict=True)):
            nodule = ground + sign_db if sign else None
            ring = _paint_spot(canvas, place, nodule, ground + contrast_db if nth == 0 else None, rng)
            if nth == 0:
                regions[number] = np.where(ring.distance(*canvas.millimetres()) <= 1.5, 255, 0)
        frames[number] = canvas.image(rng, Machine(gain_db=rng.uniform(-3, 3), noise_db=noise_db, dynamic_range_db=64, looks=4))
        looks.append(simulate_gaze(found, size, rng, looking=looking))
    maps = gaze_maps(looks, sigma=min(size) / 16)
    return CueImages(frames, classes, given, places[:, 0], places[:, 1:], regions, looks, maps, seed)


def _paint_spot(
    canvas: Canvas, place: np.ndarray, nodule_db: float | None, wall_db: float | None, rng: np.random.Generator
) -> Ellipse:
    """Fluid, with a nodule and a wall where levels are given; returns its outline."""
    ring = Ellipse((float(place[0]), float(place[1])), tuple(rng.uniform(6.5, 7.5, 2)), float(rng.uniform(0, 3)))
    away = ring.distance(canvas.x, canvas.y)
    canvas.fill(away, NOTHING_DB, edge=0.8)
    if wall_db is not None:
        wall = np.exp(-0.5 * ((away - 0.8) / 0.9) ** 2)
        canvas.level += wall * (np.maximum(canvas.level, wall_db) - canvas.level)
    if nodule_db is not None:
        middle = place + rng.normal(0, 0.5, 2)
        nodule = Ellipse((float(middle[0]), float(middle[1])), tuple(rng.uniform(3.2, 4.2, 2)))
        canvas.fill(nodule.distance(canvas.x, canvas.y), nodule_db, edge=0.8)
    return ring
