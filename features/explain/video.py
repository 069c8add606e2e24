"""An explanation as a short video: the frames under one biomarker's maps, beside all biomarkers over time."""

import math
from fractions import Fraction
from pathlib import Path

import av
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...atomic import atomic_path
from ...errors import SonokitError
from .explanation import Explanation
from .overlay import map_on_frame, overlaid, scaled_to
from .strip import times_of

_LONGEST = 448  # of the frame, in pixels
_PANEL = 352  # width beside it
_ROW = 72  # lowest height of a biomarker's row
_SAMPLED_RATE = 8
# one thread and no macroblock tree: the same bytes each time
_ENCODING = {"crf": "18", "preset": "veryfast", "threads": "1", "mbtree": "0"}
_INK, _FAINT, _BAR, _NOW = (235, 235, 235), (120, 120, 120), (70, 84, 104), (250, 170, 60)


def write_video(explanation: Explanation, out: Path, biomarker: str | None = None, *, frame_rate: float = math.nan) -> Path:
    """Write an mp4 (H.264, yuv420p) with one frame a moment.

    Args:
        explanation: Of a clip.
        out: A .mp4 file; replaced where it exists.
        biomarker: Whose maps; None: the most probable of those that have some.
        frame_rate: Hz; 8 where it is not a number.

    Returns:
        ``out``.

    Raises:
        SonokitError: ``biomarker`` has no maps.
    """
    name = biomarker or most_probable(explanation)
    if name not in explanation.explained:
        raise SonokitError(f"the video can show {', '.join(explanation.explained)}, not {name!r}")
    rate = Fraction(frame_rate).limit_denominator(1000) if math.isfinite(frame_rate) else Fraction(_SAMPLED_RATE)
    pictures = [_picture(explanation, moment, name) for moment in range(len(explanation.frames))]
    with atomic_path(Path(out)) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=_ENCODING)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return Path(out)


def most_probable(explanation: Explanation) -> str:
    """Of the biomarkers with maps, the one of the highest probability in the clip."""
    return max(explanation.explained, key=lambda name: explanation.clip_probabilities[explanation.biomarkers.index(name)])


def _picture(explanation: Explanation, moment: int, name: str) -> np.ndarray:
    """One frame of the video, uint8 [H, W, 3] with H and W even."""
    frame = scaled_to(explanation.frames[moment], _LONGEST)
    height = max(frame.shape[0], _ROW * len(explanation.biomarkers))
    strength = map_on_frame(explanation, moment, explanation.explained.index(name), *frame.shape)
    picture = np.zeros((height + height % 2, _LONGEST + _PANEL, 3), dtype=np.uint8)
    top, left = (picture.shape[0] - frame.shape[0]) // 2, (_LONGEST - frame.shape[1]) // 2
    picture[top : top + frame.shape[0], left : left + frame.shape[1]] = overlaid(frame, strength)
    image = Image.fromarray(picture)
    times, unit = times_of(explanation)
    when = f"{times[moment]:.2f} s" if unit == "seconds" else f"frame {times[moment]:.0f}"
    draw = ImageDraw.Draw(image)
    draw.text((8, picture.shape[0] - 8), when, font=_font(15), fill=_INK, anchor="lb", stroke_width=2, stroke_fill=(0, 0, 0))
    image.paste(Image.fromarray(_panel(explanation, moment, name, picture.shape[0])), (_LONGEST, 0))
    return np.asarray(image)


def _panel(explanation: Explanation, moment: int, name: str, height: int) -> np.ndarray:
    """All biomarkers over time with the present moment marked, uint8 [height, _PANEL, 3]."""
    image = Image.new("RGB", (_PANEL, height), (18, 18, 22))
    draw = ImageDraw.Draw(image)
    row = height / len(explanation.biomarkers)
    for number, biomarker in enumerate(explanation.biomarkers):
        top = number * row
        value = explanation.probabilities[moment, number]
        shown = biomarker == name
        words = biomarker.replace("_", " ") + (" (mapped)" if shown else "")
        draw.text((14, top + 8), words, font=_font(15), fill=_NOW if shown else _INK)
        draw.text((_PANEL - 14, top + 8), f"{value:.2f}", font=_font(15), fill=_INK, anchor="ra")
        _draw_bars(draw, explanation.probabilities[:, number], moment, (14, top + 30, _PANEL - 14, top + row - 8))
    return np.asarray(image)


def _draw_bars(draw: ImageDraw.ImageDraw, values: np.ndarray, moment: int, box: tuple[float, float, float, float]) -> None:
    """A bar a moment in 0 … 1, the present one marked by its colour and a line through the row."""
    left, top, right, bottom = box
    step = (right - left) / len(values)
    draw.line([(left, top), (right, top)], fill=(40, 40, 46))
    for number, value in enumerate(values):
        start = left + number * step
        end = max(start + 1, start + step - (2 if step > 5 else 0))
        draw.rectangle((start, bottom - float(value) * (bottom - top), end, bottom), fill=_NOW if number == moment else _BAR)
    centre = left + (moment + 0.5) * step
    draw.line([(centre, top), (centre, bottom)], fill=_INK)
    draw.line([(left, bottom), (right, bottom)], fill=_FAINT)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along: the same on every machine."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
