"""A piece of even tissue that fills the picture, with a cyst or a lesion here and there: the ground of the small tasks."""

import numpy as np

from ...clips.simulation.scan_geometry import Probe
from .canvas import Canvas

DEPTH_MM = 64.0


def tissue(size: tuple[int, int], rng: np.random.Generator, *, mottle_db: float = 1.5, grain_mm: float = 2.5) -> Canvas:
    """A canvas of ``DEPTH_MM`` with tissue of an uneven level, layered a little, seen by a nearly straight probe."""
    canvas = Canvas(Probe("convex", DEPTH_MM, radius_mm=400.0, angle_deg=14.0), size)
    canvas.level[:] = rng.uniform(-35, -31)
    canvas.mottle(rng, mottle_db, grain_mm)
    for _ in range(int(rng.integers(2, 5))):  # faint layers
        line = (
            canvas.y - rng.uniform(0, DEPTH_MM) - rng.uniform(1, 3) * np.sin(canvas.x / rng.uniform(6, 14) + rng.uniform(0, 6))
        )
        canvas.outline(line, rng.uniform(-30, -26), 0.9)
    return canvas


def free_places(
    count: int, size: tuple[int, int], gap: float, margin: float, rng: np.random.Generator, tries: int = 200
) -> np.ndarray:
    """Places (x, y) in pixels, float64 [count or fewer, 2], ``gap`` or more from each other and ``margin`` from the edges."""
    found: list[np.ndarray] = []
    for _ in range(tries):
        place = rng.uniform(margin, np.array(size) - 1 - margin)
        if all(np.hypot(*(place - other)) >= gap for other in found):
            found.append(place)
        if len(found) == count:
            break
    return np.array(found).reshape(-1, 2)
