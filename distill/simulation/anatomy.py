"""The three standard planes of a fetus, painted on a canvas: head, abdomen, femur, each with its landmarks.

Sizes follow the usual growth tables roughly, as a simulation may: none of these numbers is a reference value. Angles are turned
so that a head lies across the beam, as it is measured, an abdomen has its spine at a side, and a femur lies across the beam.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .canvas import NOTHING_DB, Canvas, Ellipse

WEEKS = (16.0, 20.0, 24.0, 28.0, 32.0, 36.0, 40.0)
HEAD_WIDTH = (34.0, 47.0, 59.0, 70.0, 80.0, 88.0, 94.0)
"""Biparietal diameter at those weeks, mm."""
ABDOMEN_WIDTH = (33.0, 48.0, 62.0, 76.0, 89.0, 102.0, 113.0)
"""Mean diameter of the abdomen, mm."""
FEMUR_LENGTH = (20.0, 32.0, 43.0, 53.0, 62.0, 69.0, 75.0)
"""Of the shaft, mm."""

LANDMARKS = {
    "head": ("bpd_near", "bpd_far", "ofd_left", "ofd_right", "cavum"),
    "abdomen": ("apad_spine", "apad_front", "tad_stomach", "tad_other"),
    "femur": ("femur_left", "femur_right"),
}
"""Plane -> its landmarks: ends of the biparietal diameter (the one near the probe first) and of the occipito-frontal one (the
one further left in the picture first), both on the middle of the skull; centre of the cavum; ends of the antero-posterior and
of the transverse diameter of the abdomen, named by the organ at that side; ends of the femur's shaft."""


@dataclass(frozen=True)
class Fetus:
    """What the images of one patient share.

    Attributes:
        weeks: Of gestation.
        head, abdomen: Diameters (short or antero-posterior, long or transverse), mm.
        femur: Length, mm.
        brightness: Of soft tissue, dB.
        seed: Of everything else about the body.
    """

    weeks: float
    head: tuple[float, float]
    abdomen: tuple[float, float]
    femur: float
    brightness: float
    seed: int

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Fetus":
        """Another one."""
        weeks = float(rng.uniform(18, 38))
        spread = rng.normal(1, 0.04, 3)
        width = float(np.interp(weeks, WEEKS, HEAD_WIDTH) * spread[0])
        trunk = float(np.interp(weeks, WEEKS, ABDOMEN_WIDTH) * spread[1])
        shape = float(rng.uniform(0.93, 1.07))
        return cls(
            weeks,
            (width, width / float(rng.uniform(0.74, 0.84))),
            (trunk * shape, trunk / shape),
            float(np.interp(weeks, WEEKS, FEMUR_LENGTH) * spread[2]),
            float(rng.uniform(-3, 3)),
            int(rng.integers(2**31)),
        )

    def extent(self, plane: str) -> float:
        """The longest diameter in that plane, mm."""
        return {"head": self.head[1], "abdomen": max(self.abdomen), "femur": self.femur}[plane]


@dataclass
class Drawn:
    """What is known of a painted plane.

    Attributes:
        points: Landmark -> (x, y) in mm.
        structure: What is measured: gives the distance (mm, negative inside) of any points.
        decisive: (x, y) in mm of what tells the plane, where a sonographer looks first; and of further structures.
    """

    points: dict[str, np.ndarray]
    structure: "Ellipse | Bar"
    decisive: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Bar:
    """A straight bar with round ends between two points (x, y), mm; ``radius`` is half its thickness, the ends included."""

    first: tuple[float, float]
    second: tuple[float, float]
    radius: float

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Exact distance to its outline in mm, negative inside."""
        start, end = np.array(self.first), np.array(self.second)
        length = float(np.hypot(*(end - start)))
        along = (end - start) / length
        inner = max(length - 2 * self.radius, 0.0)
        place = (x - start[0]) * along[0] + (y - start[1]) * along[1]
        beside = (y - start[1]) * along[0] - (x - start[0]) * along[1]
        nearest = np.clip(place, self.radius, self.radius + inner)
        return np.hypot(place - nearest, beside) - self.radius


def paint_mother(canvas: Canvas, skin_mm: float, rng: np.random.Generator) -> None:
    """The mother's belly wall and the womb above, its far wall below, fluid between."""
    depth = canvas.y
    wave = 1.5 * np.sin(canvas.x / rng.uniform(14, 30) + rng.uniform(0, 6))
    canvas.fill(depth - skin_mm - wave, rng.uniform(-16, -10), edge=1.0)
    for _ in range(3):
        canvas.outline(depth - rng.uniform(0.1, 0.95) * skin_mm - 0.5 * wave, rng.uniform(-12, -5), 0.7)
    canvas.outline(depth - skin_mm - wave, -8, 0.9)
    far = canvas.y.max() * rng.uniform(0.86, 0.96)
    canvas.fill(far + 2 * wave - depth, rng.uniform(-18, -12), edge=1.0)
    side = rng.choice([-1, 1])  # the placenta, or another limb, at one side
    deep = float(depth.max())
    lump = Ellipse((side * rng.uniform(0.5, 0.62) * deep, rng.uniform(0.2, 0.8) * deep), (0.15 * deep, 30.0))
    canvas.fill(lump.distance(canvas.x, canvas.y), rng.uniform(-18, -13), edge=1.5)


def paint_head(
    canvas: Canvas, fetus: Fetus, centre: tuple[float, float], turn: float, face: int, rng: np.random.Generator
) -> Drawn:
    """The transthalamic plane; ``face`` is 1 where the forehead is at the right, else -1."""
    x, y = canvas.x, canvas.y
    skull = Ellipse(centre, (fetus.head[1] / 2, fetus.head[0] / 2), turn)
    size = fetus.head[0] / 80
    gap = skull.distance(x, y)
    canvas.fill(gap - 3.0, -15 + fetus.brightness, edge=1.0)  # the scalp
    canvas.fill(gap, -30 + fetus.brightness, edge=1.2)
    u, v = skull.own(x, y)
    u, v = face * u / skull.radii[0], v / skull.radii[1]  # 1 is the forehead
    canvas.level += np.where(gap < 0, 7 * np.exp(-(canvas.y - centre[1] + fetus.head[0] / 2) / 14), 0)  # reverberation

    for side in (-1, 1):  # thalami, dark, beside the middle
        thalamus = Ellipse(tuple(skull.at(-0.08 * face, 0.2 * side)), (9 * size, 6.5 * size), turn)
        canvas.fill(thalamus.distance(x, y), -36 + fetus.brightness, edge=1.5)
        canvas.outline(thalamus.distance(x, y), -21, 1.2)
    plexus = Ellipse(tuple(skull.at(-0.48 * face, 0.42)), (10 * size, 4 * size), turn + 0.25 * face)
    canvas.fill(plexus.distance(x, y), -11 + fetus.brightness, edge=1.5)
    canvas.outline(np.where(np.abs(u + 0.1) < 0.55, (v - 0.52 + 0.2 * u**2) * skull.radii[1], 9), -16, 0.9)  # ventricle
    falx = np.where((np.abs(u) < 0.93) & ~((u > 0.3) & (u < 0.56)), v * skull.radii[1], 9.0)
    canvas.outline(falx, -5, 1.1)
    cavum = Ellipse(tuple(skull.at(0.43 * face, 0.0)), (0.12 * skull.radii[0], 3.4 * size), turn)
    canvas.fill(cavum.distance(x, y), NOTHING_DB, edge=0.8)
    canvas.outline(cavum.distance(x, y), -4, 1.0)
    canvas.outline(gap, 4, 2.4, seen=_gaps(skull.angle(x, y), fetus, rng), loss=2.2)

    ends = {"bpd": (skull.at(0, -1), skull.at(0, 1)), "ofd": (skull.at(-1, 0), skull.at(1, 0))}
    near, far = sorted(ends["bpd"], key=lambda point: point[1])
    left, right = sorted(ends["ofd"], key=lambda point: point[0])
    middle = np.array(cavum.centre)
    points = {"bpd_near": near, "bpd_far": far, "ofd_left": left, "ofd_right": right, "cavum": middle}
    return Drawn(points, skull, [middle, skull.at(-0.1 * face, 0.0)])


def paint_abdomen(
    canvas: Canvas, fetus: Fetus, centre: tuple[float, float], turn: float, side: int, rng: np.random.Generator
) -> Drawn:
    """The plane of stomach and umbilical vein; the spine is at the left for ``turn`` 0; ``side`` is where the stomach is."""
    x, y = canvas.x, canvas.y
    trunk = Ellipse(centre, (fetus.abdomen[0] / 2, fetus.abdomen[1] / 2), turn)
    size = fetus.abdomen[0] / 85
    gap = trunk.distance(x, y)
    canvas.fill(gap, -15 + fetus.brightness, edge=1.2)
    canvas.fill(gap + 2.5, -20 + fetus.brightness, edge=1.0)
    vein = [trunk.at(0.55, 0.0), trunk.at(0.25, 0.02 * side), trunk.at(0.05, -0.16 * side)]
    for start, end in pairwise(vein):
        tube = Bar(tuple(start), tuple(end), 3.2 * size).distance(x, y)
        canvas.fill(tube, NOTHING_DB, edge=0.8)
        canvas.outline(tube, -14, 0.8)
    grown = float(np.random.default_rng([fetus.seed, 3]).uniform(0.8, 1.3))
    stomach = Ellipse(tuple(trunk.at(0.0, 0.48 * side)), (10 * size * grown, 7 * size * grown), turn + 0.3)
    canvas.fill(stomach.distance(x, y), NOTHING_DB, edge=0.8)
    canvas.outline(stomach.distance(x, y), -13, 1.0)
    aorta = Ellipse(tuple(trunk.at(-0.55, 0.12 * side)), (3.2 * size, 3.2 * size))
    canvas.fill(aorta.distance(x, y), NOTHING_DB, edge=0.8)
    canvas.outline(aorta.distance(x, y), -13, 0.8)
    for along, beside in ((-0.7, 0.0), (-0.86, -0.11), (-0.86, 0.11)):  # the three centres of a vertebra
        bone = Ellipse(tuple(trunk.at(along, beside)), (2.6 * size, 2.6 * size))
        canvas.fill(bone.distance(x, y), 0, edge=1.0, loss=2.5)
    for place in (0.72, 0.88, 1.12, 1.28):  # ribs, cut across
        middle = trunk.at(0.93 * np.cos(place * np.pi), 0.93 * np.sin(place * np.pi))
        rib = Ellipse(tuple(middle), (2.6 * size, 1.4 * size), turn)
        canvas.fill(rib.distance(x, y), -3, edge=0.8, loss=1.5)
    canvas.outline(gap, -3, 1.4, seen=_gaps(trunk.angle(x, y), fetus, rng), loss=0.15)
    points = {
        "apad_spine": trunk.at(-1, 0),
        "apad_front": trunk.at(1, 0),
        "tad_stomach": trunk.at(0, side),
        "tad_other": trunk.at(0, -side),
    }
    return Drawn(points, trunk, [np.array(stomach.centre), vein[1]])


def paint_femur(
    canvas: Canvas, fetus: Fetus, centre: tuple[float, float], turn: float, bend: int, rng: np.random.Generator
) -> Drawn:
    """The shaft in the thigh, across the beam for ``turn`` 0; ``bend`` is the side of the knee."""
    x, y = canvas.x, canvas.y
    half = fetus.femur / 2 * np.array([np.cos(turn), np.sin(turn)])
    thick = 0.055 * fetus.femur + 1.0
    bar = Bar(tuple(np.array(centre) - half), tuple(np.array(centre) + half), thick / 2 + 0.4)
    thigh = Ellipse(centre, (0.66 * fetus.femur, 0.3 * fetus.femur), turn + 0.06 * bend)
    canvas.fill(thigh.distance(x, y), -19 + fetus.brightness, edge=1.5)
    canvas.outline(thigh.distance(x, y), -7, 1.2, seen=_gaps(thigh.angle(x, y), fetus, rng))
    for place in rng.uniform(-0.75, 0.75, 4):  # fasciae of the muscles
        start, end = thigh.at(-0.62, place * 0.7), thigh.at(0.62, place * 0.8)
        layer = Bar(tuple(start), tuple(end), 0.4)
        canvas.outline(layer.distance(x, y), rng.uniform(-15, -9), 0.8)
    for side in (-1, 1):  # cartilage at both ends is dark
        end = np.array(centre) + side * (half + 3.2 * half / np.linalg.norm(half))
        joint = Ellipse(tuple(end), (3.6, 3.2), turn)
        canvas.fill(joint.distance(x, y), -34, edge=1.0)
    canvas.fill(bar.distance(x, y), 3, edge=0.6, loss=5.0)
    left, right = sorted((np.array(bar.first), np.array(bar.second)), key=lambda point: point[0])
    return Drawn({"femur_left": left, "femur_right": right}, bar, [np.array(centre), left, right])


PAINTERS = {"head": paint_head, "abdomen": paint_abdomen, "femur": paint_femur}


def _gaps(angle: np.ndarray, fetus: Fetus, rng: np.random.Generator) -> np.ndarray:
    """How well each part of an outline is seen, 0.05 to 1.2: it waxes and wanes, and some arcs are missing."""
    seen = 1 + 0.2 * np.sin(2 * angle + fetus.seed % 7)
    for _ in range(int(rng.integers(0, 4))):
        off = np.angle(np.exp(1j * (angle - rng.uniform(-np.pi, np.pi))))
        seen = seen * (1 - rng.uniform(0.85, 0.995) * np.exp(-0.5 * (off / rng.uniform(0.12, 0.3)) ** 4))
    return seen
