"""Points out of heat maps without torch: the decoding of :mod:`sonokit.distill.landmarks.heat_maps` in numpy, unsmoothed.

"taylor" finds the top of the paraboloid that the logarithm of a Gaussian is, from the 3 × 3 cells round the peak (Zhang et al.,
DARK, CVPR 2020, 1910.06278); "soft_argmax" the centre of mass of a window round the peak; "argmax" the peak's cell.
"""

import numpy as np

_SMALLEST = 1e-10  # below it the logarithm is cut off; a network's map may be negative


def points_of(maps: np.ndarray, method: str = "taylor", *, radius: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Points and how high their peaks are.

    Args:
        maps: Float [B, L, H, W], at least 3 × 3.
        method: "taylor", "soft_argmax" or "argmax".
        radius: Of the window of "soft_argmax", in cells.

    Returns:
        (x, y) in cells, float32 [B, L, 2]; the highest value of each map, float32 [B, L].
    """
    height, width = maps.shape[2:]
    if min(height, width) < 3 or method not in ("taylor", "soft_argmax", "argmax"):
        raise ValueError(f"wanted maps of at least 3 × 3 and a known decoding, got {height} × {width} and {method!r}")
    maps = maps.astype(np.float32)
    flat = maps.reshape(*maps.shape[:2], -1)
    highest = flat.argmax(axis=2)
    peak = np.stack([highest % width, highest // width], axis=-1)  # [B, L, 2]
    if method == "taylor":
        found = _taylor(flat, peak, (height, width))
    else:
        found = _centre_of_mass(maps, peak, radius) if method == "soft_argmax" else peak
    return found.astype(np.float32), flat.max(axis=2)


def _taylor(flat: np.ndarray, peak: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Maps [B, L, H · W] → points [B, L, 2]; the peak itself where there is no top within a cell."""
    height, width = shape
    near = peak.clip(1, np.array([width - 2, height - 2]))  # at the edge the neighbours are taken one cell further in
    steps = np.arange(-1, 2)
    places = (near[..., 1, None, None] + steps[:, None]) * width + near[..., 0, None, None] + steps  # [B, L, 3, 3]
    cells = np.take_along_axis(flat, places.reshape(*flat.shape[:2], 9), axis=2).reshape(places.shape)
    step, is_top = _top(np.log(np.maximum(cells.astype(np.float64), _SMALLEST)))
    refined = near + step
    within = (np.abs(refined - peak) <= 1).all(axis=-1) & is_top
    return np.where(within[..., None], refined, peak)


def _centre_of_mass(maps: np.ndarray, peak: np.ndarray, radius: int) -> np.ndarray:
    height, width = maps.shape[2:]
    columns, rows = np.arange(width), np.arange(height)
    near_x = np.abs(columns - peak[..., 0, None]) <= radius  # [B, L, W]
    near_y = np.abs(rows - peak[..., 1, None]) <= radius  # [B, L, H]
    mass = maps.clip(min=0).astype(np.float64) * (near_y[..., None] & near_x[..., None, :])
    total = mass.sum(axis=(2, 3))
    centre = np.stack([(mass.sum(axis=2) * columns).sum(axis=-1), (mass.sum(axis=3) * rows).sum(axis=-1)], axis=-1)
    return np.where((total > 0)[..., None], centre / np.maximum(total, 1e-300)[..., None], peak)


def _top(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the middle of 3 × 3 logarithms [..., 3, 3] to the paraboloid's top, (x, y) [..., 2]; whether it is a top [...]."""
    middle = logs[..., 1, 1]
    slope_x = (logs[..., 1, 2] - logs[..., 1, 0]) / 2
    slope_y = (logs[..., 2, 1] - logs[..., 0, 1]) / 2
    bend_xx = logs[..., 1, 2] - 2 * middle + logs[..., 1, 0]
    bend_yy = logs[..., 2, 1] - 2 * middle + logs[..., 0, 1]
    bend_xy = (logs[..., 2, 2] - logs[..., 2, 0] - logs[..., 0, 2] + logs[..., 0, 0]) / 4
    determinant = bend_xx * bend_yy - bend_xy**2
    is_top = (bend_xx < 0) & (determinant > 0)
    safe = np.where(is_top, determinant, 1.0)
    step = np.stack([bend_xy * slope_y - bend_yy * slope_x, bend_xy * slope_x - bend_xx * slope_y], axis=-1)
    return step / safe[..., None], is_top
