"""What experts left beside a study's clips, gaze or regions, brought into the frames that a teacher sees.

It lies on views only while a teacher learns and teaches: a student's views have gaze taken away before it is trained, and
its ``forward`` has no place for either.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ...clips.augment import resize
from ...clips.cached_clips import CachedClips
from ...clips.decode import ClipError, read_clip
from ...errors import SonokitError
from ..faults import Faults
from ..knowledge.coco import read_coco
from ..knowledge.cvat import read_cvat
from ..knowledge.gaze import Gaze, mend, placed
from ..knowledge.gaze_files import Screen, TimeUnit, Units, read_gaze_csv
from ..knowledge.gaze_maps import frame_maps, still_map
from ..knowledge.label_maps import read_label_maps
from ..knowledge.region_tables import read_boxes_csv, read_mask_files
from ..knowledge.regions import RegionSet, placed_mask
from ..placement import Placement, fitted
from ..tables import Table
from ..training.views import Views, chosen_frames

_DEGREE_SHARE = 1 / 20  # of the longer side, where nobody says what a degree of visual angle spans
_GAZE_STRIDE = 4  # pixels of a frame a cell of its gaze map: a degree is far larger

Sizes = dict[str, tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Gaze or regions of the N clips of a study.

    Attributes:
        clips: The clips.
        sizes: clip_id -> (width, height) of its frames as they were recorded.
        gaze: clip_id -> where an expert looked; None where there is no gaze.
        regions: clip_id -> what was marked, bool [H, W]; None where there are no regions.
        faults: What was wrong with the file.
        how: In plain words and values, for the report.
        degree_px: Pixels of the clip that a degree of visual angle spans; None: a twentieth of the longer side.
        fingerprint: Changes with file and options.
    """

    clips: CachedClips
    sizes: Sizes
    gaze: Mapping[str, Gaze] | None
    regions: Mapping[str, np.ndarray] | None
    faults: Faults
    how: dict[str, Any]
    fingerprint: str
    degree_px: float | None = None

    @property
    def annotated(self) -> np.ndarray:
        """Which clips have any, bool [N]."""
        known = self.gaze if self.gaze is not None else self.regions or {}
        return np.isin(self.clips.table["clip_id"].to_numpy(dtype=str), list(known))

    def on(self, views: Views, frames_per_clip: int | None) -> Views:
        """The same views with gaze or regions.

        Args:
            views: From :func:`~sonokit.distill.training.views.clip_views`, not augmented yet.
            frames_per_clip: As it was given there.
        """
        size = views.size[0]
        if self.gaze is not None:
            maps = [self._gaze_of(int(row), size, frames_per_clip) for row in _runs(views.items)]
            return replace(views, gaze=np.concatenate(maps))
        marked = [self._region_of(int(row), size) for row in _runs(views.items)]
        counts = [len(chosen_frames(len(self.clips[int(row)].frames), frames_per_clip)) for row in _runs(views.items)]
        return replace(
            views,
            regions=np.repeat(np.stack([mask for mask, _ in marked]), counts, axis=0),
            annotated=np.repeat(np.array([there for _, there in marked]), counts),
        )

    def count_silent_frames(self) -> None:
        """Count, among the faults, the cached frames of clips with gaze that nobody looked at while they were shown."""
        for row, name in enumerate(self.clips.table["clip_id"].astype(str)):
            if name in (self.gaze or {}):
                silent = np.flatnonzero(self._gaze_of(row, self.clips.settings.size, None).max(axis=(1, 2)) == 0)
                self.faults.add("frame_without_gaze", len(silent), [f"{name} frame {k} of the cache" for k in silent[:3]])

    def _gaze_of(self, row: int, size: int, frames_per_clip: int | None) -> np.ndarray:
        """Of the chosen frames of a clip, uint8 [F, size // 4, size // 4], 255 at the peak of each."""
        clip = self.clips[row]
        chosen = chosen_frames(len(clip.frames), frames_per_clip)
        assert self.gaze is not None
        looked = self.gaze.get(clip.clip_id)
        if looked is None:
            return np.zeros((len(chosen), size // _GAZE_STRIDE, size // _GAZE_STRIDE), dtype=np.uint8)
        placement = _square(self.sizes[clip.clip_id], size).at_stride(_GAZE_STRIDE)
        degree = self.degree_px or _DEGREE_SHARE * max(looked.size)
        sigma = (float(degree * placement.scale[0]), float(degree * placement.scale[1]))
        inside = placed(looked, placement)
        if np.isfinite(clip.frame_rate) and clip.frame_count > 1:
            maps = frame_maps(inside, clip.times_s[chosen], 1 / clip.frame_rate, sigma).maps
        else:
            maps = np.repeat(still_map(inside, sigma)[None], len(chosen), axis=0)
        peaks = maps.max(axis=(1, 2), keepdims=True)
        return np.round(255 * np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)).astype(np.uint8)

    def _region_of(self, row: int, size: int) -> tuple[np.ndarray, bool]:
        """The mask of a clip, uint8 [size, size], and whether there is one."""
        name = str(self.clips.table["clip_id"].iat[row])
        assert self.regions is not None
        mask = self.regions.get(name)
        if mask is None:
            return np.zeros((size, size), dtype=np.uint8), False
        # as the frame itself: letterboxed in the cache, then brought to the view's size
        lies = torch.from_numpy(placed_mask(mask, _square(self.sizes[name], self.clips.settings.size)))
        return resize(lies[None, None], size)[0, 0].mul(255).round().byte().numpy(), True


def read_gaze(
    file: Path,
    clips: CachedClips,
    *,
    delay_s: float = 0.0,
    degree_px: float | None = None,
    outside: str = "keep",
    units: Units = "auto",
    time_unit: TimeUnit = "auto",
    progress: bool = False,
) -> Knowledge:
    """Gaze of a CSV; see :func:`~sonokit.distill.knowledge.gaze_files.read_gaze_csv`.

    Args:
        file: ``clip_id``, time, x, y and, for fixations, duration.
        clips: The study's clips.
        delay_s: Added to every time: how much the tracker's clock is behind the clip's.
        degree_px: Pixels of the clip that a degree of visual angle spans; None: a twentieth of the longer side.
        outside: "keep", "drop" or "clip" points beyond the frame.
        units: Of x and y: "pixels", "normalised" or "auto".
        time_unit: "s", "ms" or "auto".
        progress: Show a bar on standard error.

    Raises:
        SonokitError: The file cannot be read, or has gaze of none of the clips.
    """
    if degree_px is not None and not degree_px > 0:
        raise SonokitError(f"a degree of visual angle spans more than 0 pixels, not {degree_px}")
    sizes = recorded_sizes(clips, progress=progress)
    lengths = (clips.table["frame_count"] / clips.table["frame_rate"]).to_numpy(dtype=np.float64, na_value=np.nan)
    several = clips.table["frame_count"].to_numpy() > 1
    lasting = {name: length for name, length, many in zip(sizes, lengths, several, strict=True) if many and np.isfinite(length)}
    screens = {name: Screen(size, lasting.get(name)) for name, size in sizes.items()}
    found, faults = read_gaze_csv(file, screens, units=units, time_unit=time_unit)
    if not found:
        raise SonokitError(f"{file}: none of its clips is one of this study's {len(sizes)} (first {next(iter(sizes))})")
    mended = {name: mend(one, clock_offset_s=delay_s, outside=outside) for name, one in found.items()}  # type: ignore[arg-type]
    told = f"{degree_px:g} pixels of the clip" if degree_px else "a twentieth of the clip's longer side (nobody said)"
    seen = sum(bool((one.valid & one.inside).any()) for one in mended.values())
    how = {
        "file": str(file), "clips": seen, "a degree of visual angle spans": told, "delay_s": delay_s, "outside": outside,
        "units": units, "time_unit": time_unit,
    }  # fmt: skip
    known = Knowledge(clips, sizes, mended, None, faults, how, _fingerprint([file], how), degree_px)
    known.count_silent_frames()
    return known


def read_regions(source: Path, clips: CachedClips, *, progress: bool = False) -> Knowledge:
    """Regions of COCO JSON, CVAT XML, a folder of label maps, or a CSV of boxes or of mask files; of a whole clip each.

    An image is a clip by its ``clip_id``, by its path in the manifest, or by the path's last part.

    Args:
        source: The file or folder.
        clips: The study's clips.
        progress: Show a bar on standard error.

    Raises:
        SonokitError: It cannot be read, or has regions of none of the clips.
    """
    source = Path(source)
    sizes = recorded_sizes(clips, progress=progress)
    ids = clips.table["clip_id"].to_numpy(dtype=str).tolist()
    paths = clips.table["path"].to_numpy(dtype=str).tolist()
    readings = []
    for names in (ids, paths, [Path(path).name for path in paths]):
        if len(set(names)) == len(names):
            found = _read_any(source, {name: sizes[clip] for name, clip in zip(names, ids, strict=True)})
            readings.append((dict(zip(names, ids, strict=True)), found))
    clip_of, best = max(readings, key=lambda reading: sum(bool(image.regions) for image in reading[1].images.values()))
    masks = {clip_of[name]: image.mask() for name, image in best.images.items() if image.regions}
    if not masks:
        why = "; ".join(line for line in best.faults.lines() if not line.startswith("image without")) or "it has no region"
        raise SonokitError(f"{source} has no region for a clip of this study ({why}); images are named as clips: {ids[0]}")
    how = {"file": str(source), "clips": len(masks), "names": list(best.names)}
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    told = {**how, "masks": {name: _hashed(mask) for name, mask in masks.items()}}
    return Knowledge(clips, sizes, None, masks, best.faults, how, _fingerprint(files, told))


def recorded_sizes(clips: CachedClips, *, progress: bool = False) -> Sizes:
    """clip_id -> (width, height) of its frames as they were recorded; the cache has letterboxed squares.

    Raises:
        SonokitError: A clip cannot be decoded any more.
    """
    sizes: Sizes = {}
    shown = tqdm(range(len(clips)), desc="sizes of the clips", unit="clip", leave=False, disable=not progress)
    for row in shown:
        name = str(clips.table["clip_id"].iat[row])
        try:
            height, width = read_clip(clips.manifest.locate(row), [0]).frames.shape[1:3]
        except (ClipError, OSError) as fault:
            raise SonokitError(
                f"clip {name} cannot be read again ({fault}): gaze and regions are placed by its file"
            ) from fault
        sizes[name] = (int(width), int(height))
    return sizes


def _read_any(source: Path, sizes: Sizes) -> RegionSet:
    if source.is_dir():
        return read_label_maps(source, sizes=sizes)
    ending = source.suffix.lower()
    if ending == ".json":
        return read_coco(source, sizes)
    if ending == ".xml":
        return read_cvat(source, sizes)
    if ending == ".csv":
        return read_mask_files(source, sizes=sizes) if "mask" in Table(source).columns else read_boxes_csv(source, sizes)
    raise SonokitError(f"{source} is none of COCO JSON, CVAT XML, a CSV of boxes or mask files, or a folder of label maps")


def _square(size: tuple[int, int], side: int) -> Placement:
    return fitted(size, (side, side))


def _runs(items: np.ndarray) -> np.ndarray:
    """Each clip once, in the order of its views."""
    return items[np.flatnonzero(np.diff(items, prepend=-1))]


def _hashed(mask: np.ndarray) -> str:
    """Of size and content: a table of mask files may stay as it is while a file beside it changes."""
    return hashlib.sha256(str(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()


def _fingerprint(files: list[Path], how: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(repr(sorted((key, value) for key, value in how.items() if key != "file")).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
