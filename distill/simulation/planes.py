"""Simulated standard planes of fetuses: head, abdomen, femur, with known landmarks and pixel spacing.

    images = simulate_planes(300, plane="head", seed=0)
    views, truth = images.views(), images.landmarks()

The true positions are those of the geometry that was painted, not of pixels: they are exact to a small part of a pixel.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ...clips.simulation.scan_geometry import Probe
from ...errors import SonokitError
from ..knowledge.gaze import Gaze
from ..landmarks.landmarks import Landmarks
from ..training.views import Views
from .anatomy import LANDMARKS, PAINTERS, Fetus, paint_mother
from .canvas import Canvas, Machine
from .gaze import gaze_maps, simulate_gaze

Plane = Literal["head", "abdomen", "femur"]
PLANES: tuple[Plane, ...] = get_args(Plane)


@dataclass(frozen=True)
class Pose:
    """How much the pose varies.

    Attributes:
        turn: Degrees to each side, at most.
        shift: Of the middle, share of the picture's side to each side, at most.
        mirrored: Probability that the forehead, the stomach or the knee is at the other side; of the abdomen also that the
            spine is at the right. Anatomical landmarks are then harder to tell apart.
        fill: Share of the picture's height (at most: also its width bounds it) that the structure fills, from and to.
        stretch: Width over height of a pixel in mm, from and to.
    """

    turn: float = 25.0
    shift: float = 0.06
    mirrored: float = 0.5
    fill: tuple[float, float] = (0.6, 0.82)
    stretch: tuple[float, float] = (0.85, 1.2)


@dataclass(frozen=True, eq=False)
class SimulatedImages:
    """N images of one size and what is true of them.

    Attributes:
        frames: uint8 [N, H, W].
        classes: Number of the plane, int64 [N].
        class_names: Of all planes that ``classes`` counts.
        points: Landmarks (x, y) in pixels, float64 [N, L, 2], nan where the plane has no such one.
        names: Of the landmarks, L.
        spacing: Millimetres a pixel (along x, along y), float64 [N, 2].
        subjects: Whose image each is, str [N].
        structures: 255 in what is measured (head, abdomen, shaft of the femur), else 0, uint8 [N, H, W].
        targets: What tells the plane, and the next thing, (x, y) in pixels, float64 [N, 2, 2].
        seed: That they were drawn by.
    """

    frames: np.ndarray
    classes: np.ndarray
    class_names: tuple[str, ...]
    points: np.ndarray
    names: tuple[str, ...]
    spacing: np.ndarray
    subjects: np.ndarray
    structures: np.ndarray
    targets: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images, N."""
        return tuple(f"{self.class_names[k]}-{self.seed}-{n:05d}" for n, k in enumerate(self.classes))

    def gaze(self, seed: int | None = None) -> list[Gaze]:
        """A simulated sonographer's fixations on each image; ``seed`` None takes the images' own."""
        size = self.frames.shape[2], self.frames.shape[1]
        rngs = [np.random.default_rng([self.seed if seed is None else seed, n, 77]) for n in range(len(self))]
        return [simulate_gaze(targets, size, rng) for targets, rng in zip(self.targets, rngs, strict=True)]

    def views(self, rows: np.ndarray | None = None, *, gaze: bool = False) -> Views:
        """Some of them as views: frames, classes, landmarks, the structure as region, and gaze maps where asked for.

        Args:
            rows: Mask [N] or numbers; None for all. The views' ``items`` are numbers among all.
            gaze: Whether gaze is simulated, too.
        """
        size = self.frames.shape[2], self.frames.shape[1]
        whole = Views(
            self.frames,
            np.arange(len(self)),
            labels=self.classes,
            regions=self.structures,
            gaze=gaze_maps(self.gaze(), sigma=size[0] / 20) if gaze else None,
            points=self.points.astype(np.float32),
        )
        return whole if rows is None else whole.take(rows)

    def landmarks(self) -> Landmarks:
        """The landmarks with spacing, sizes and patients."""
        sizes = np.tile(np.array([self.frames.shape[2], self.frames.shape[1]], dtype=np.float64), (len(self), 1))
        return Landmarks(self.images, self.names, self.points, self.spacing, sizes, self.subjects)


def simulate_planes(
    n: int,
    *,
    plane: Plane | Literal["all"] = "all",
    size: tuple[int, int] = (128, 128),
    seed: int,
    per_subject: int = 3,
    pose: Pose | None = None,
) -> SimulatedImages:
    """Draw ``n`` images; the same arguments draw the same.

    Args:
        n: How many.
        plane: One of the planes, or "all" of them in turn.
        size: (width, height) in pixels.
        seed: Another one draws other fetuses.
        per_subject: Images of one fetus: the same body and growth, another pose, picture setting and speckle.
        pose: How much the pose varies; None: the defaults.

    Raises:
        SonokitError: There is no such plane, or a number that cannot be.
    """
    if plane != "all" and plane not in PLANES:
        raise SonokitError(f"plane is one of {', '.join(PLANES)} or all, not {plane!r}")
    if n < 1 or per_subject < 1 or min(size) < 32:
        raise SonokitError(f"at least 1 image, 1 image a subject and 32 × 32 pixels are needed, got {n}, {per_subject}, {size}")
    kinds = PLANES if plane == "all" else (plane,)
    names = tuple(name for kind in kinds for name in LANDMARKS[kind])
    classes = np.array([n_ % len(kinds) for n_ in range(n)], dtype=np.int64)
    subjects = np.arange(n) // per_subject
    one = [_one(kinds[kind], size, pose or Pose(), seed, number, int(subjects[number])) for number, kind in enumerate(classes)]
    points = np.full((n, len(names), 2), np.nan)
    for number, image in enumerate(one):
        for name, place in image.points.items():
            points[number, names.index(name)] = place
    return SimulatedImages(
        frames=np.stack([image.frame for image in one]),
        classes=classes,
        class_names=kinds,
        points=points,
        names=names,
        spacing=np.stack([image.spacing for image in one]),
        subjects=np.array([f"fetus-{seed}-{number:04d}" for number in subjects]),
        structures=np.stack([image.structure for image in one]),
        targets=np.stack([image.targets for image in one]),
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class _Image:
    frame: np.ndarray
    points: dict[str, np.ndarray]
    spacing: np.ndarray
    structure: np.ndarray
    targets: np.ndarray


def _one(plane: Plane, size: tuple[int, int], pose: Pose, seed: int, number: int, subject: int) -> _Image:
    rng = np.random.default_rng([seed, number, 1])
    fetus = Fetus.drawn(np.random.default_rng([seed, subject, 0]))
    stretch = float(rng.uniform(*pose.stretch))
    aspect = min(1.0, size[0] * stretch / size[1])  # a narrow picture bounds what may lie across it
    depth = fetus.extent(plane) / (rng.uniform(*pose.fill) * aspect)
    canvas = Canvas(Probe("convex", depth, radius_mm=60.0, angle_deg=62.0), size, stretch)
    centre = depth * (np.array([0.0, 0.53]) + pose.shift * rng.uniform(-1, 1, 2) * [aspect, 1])
    turn = float(np.deg2rad(pose.turn * rng.uniform(-1, 1)))
    side, turned = np.where(rng.random(2) < pose.mirrored, -1, 1).tolist()
    if plane == "abdomen" and turned < 0:
        turn += np.pi
    paint_mother(canvas, float(rng.uniform(0.06, 0.13) * depth), rng)
    drawn = PAINTERS[plane](canvas, fetus, (float(centre[0]), float(centre[1])), turn, side, rng)
    canvas.mottle(rng, 2.0, 0.03 * depth)
    x, y = canvas.millimetres()
    return _Image(
        frame=canvas.image(rng, Machine.drawn(rng)),
        points={name: canvas.pixels(place) for name, place in drawn.points.items()},
        spacing=canvas.spacing,
        structure=np.where(drawn.structure.distance(x, y) <= 0, 255, 0).astype(np.uint8),
        targets=canvas.pixels(np.stack(drawn.decisive[:2])),
    )
