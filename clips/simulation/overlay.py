"""What a scanner writes over the picture: depth ticks, digits, a grey bar. A site's fingerprint, not the patient's."""

import numpy as np

from .patients import Site
from .scan_geometry import ScanConverter

_DIGITS = {
    "0": "111101101101111", "1": "010110010010111", "2": "111001111100111", "3": "111001111001111", "4": "101101111001001",
    "5": "111100111001111", "6": "111100111101111", "7": "111001001010010", "8": "111101111101111", "9": "111101111001111",
}  # fmt: skip
_BRIGHT, _DIM = 205, 130


def draw_overlay(frames: np.ndarray, site: Site, convert: ScanConverter) -> None:
    """Write the site's marks into uint8 [T, H, W], in place, the same in every frame."""
    height, width = frames.shape[1:]
    if site.ticks != "none":
        _ticks(frames, convert, width - 3 if site.ticks == "right" else 0)
    _digits(frames, site.text, 2, 3 if site.ticks == "right" else width - 4 * len(site.text) - 3)
    if site.grey_bar:
        ramp = np.linspace(255, 0, height // 3).astype(np.uint8)[:, None]
        place = 2 if site.ticks == "right" else width - 5
        frames[:, height // 8 : height // 8 + len(ramp), place : place + 3] = ramp


def _ticks(frames: np.ndarray, convert: ScanConverter, left: int) -> None:
    """One tick a centimetre, a brighter one each five."""
    centimetres = int(convert.grid.probe.depth_mm // 10)
    for number in range(centimetres + 1):
        row = round(convert.skin_row + 10 * number / convert.mm_per_pixel)
        if 0 <= row < frames.shape[1]:
            strong = number % 5 == 0
            frames[:, row, left + (0 if strong else 1) : left + 3] = _BRIGHT if strong else _DIM


def _digits(frames: np.ndarray, text: str, top: int, left: int) -> None:
    for number, digit in enumerate(text):
        glyph = np.array(list(_DIGITS[digit])).reshape(5, 3) == "1"
        window = frames[:, top : top + 5, left + 4 * number : left + 4 * number + 3]
        window[:, glyph] = _BRIGHT
