"""Gaze and regions find their clips, lie where they were recorded, and are counted where something is wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.cached_clips import CachedClips
from sonokit.distill.knowledge.coco import write_coco
from sonokit.distill.knowledge.cvat import write_cvat
from sonokit.distill.knowledge.label_maps import write_label_maps
from sonokit.distill.knowledge.region_tables import write_boxes_csv, write_mask_files
from sonokit.distill.knowledge.regions import ImageRegions, Region
from sonokit.distill.study.expert_knowledge import read_gaze, read_regions, recorded_sizes
from sonokit.distill.training.views import Views, clip_views
from sonokit.errors import SonokitError

SIDE, WIDTH, HEIGHT = 40, 60, 40  # of conftest.py
ROWS = np.array([0, 2, 5])


def views_of(clips: CachedClips, frames_per_clip: int | None = 2) -> Views:
    return clip_views(clips, ROWS, None, size=SIDE, frames_per_clip=frames_per_clip)


def gaze_file(folder: Path, rows: list[list[object]]) -> Path:
    file = folder / "gaze.csv"
    pd.DataFrame(rows, columns=["clip_id", "time_s", "x", "y"]).to_csv(file, index=False)
    return file


def test_sizes_are_those_of_the_files(clips: CachedClips) -> None:
    assert set(recorded_sizes(clips).values()) == {(WIDTH, HEIGHT)}


def test_gaze_lies_where_somebody_looked_and_when(clips: CachedClips, tmp_path: Path) -> None:
    # frames at 0, .1, .2, .3 s; two are taken, those at .1 and .3 s
    looks = [["c02", 0.11, 12, 10], ["c02", 0.31, 50, 30], ["c05", 0.0, 30, 20], ["c05", 0.35, 30, 20]]
    known = read_gaze(gaze_file(tmp_path, looks), clips, degree_px=4)
    seen = known.on(views_of(clips), 2).gaze
    assert seen is not None
    assert seen.shape == (6, 10, 10)
    assert (seen[:2] == 0).all()  # nobody looked at c00
    # 60 × 40 pixels in a square of 10 cells: 1/6 of the size, 10/6 empty rows (two, rounded) above
    peaks = [np.unravel_index(seen[row].argmax(), (10, 10)) for row in (2, 3)]
    assert peaks == [(int((10.5) / 6 + 1.5), int(12.5 / 6)), (int(30.5 / 6 + 1.5), int(50.5 / 6))]
    assert seen[2:4].reshape(2, -1).max(axis=1).tolist() == [255, 255]
    assert (seen[4] == 0).all()  # looked at before and after that frame
    assert seen[5].max() == 255
    assert known.annotated.sum() == 2


def test_a_late_clock_is_set_right_only_when_told(clips: CachedClips, tmp_path: Path) -> None:
    file = gaze_file(tmp_path, [["c02", -0.19, 12, 10], ["c02", -0.05, 30, 20]])
    plain, mended = (read_gaze(file, clips, delay_s=delay).on(views_of(clips), 2).gaze for delay in (0.0, 0.3))
    assert plain is not None
    assert (plain == 0).all()
    assert mended is not None
    assert mended[2].max() == 255
    assert read_gaze(file, clips).faults["negative_time"] == 2
    assert read_gaze(file, clips).fingerprint != read_gaze(file, clips, delay_s=0.3).fingerprint


def test_faults_of_gaze_are_counted(clips: CachedClips, tmp_path: Path) -> None:
    rows = [["c02", 0.05, 500, 10], ["c02", 9.0, 12, 10], ["gone", 0.1, 10, 10], ["c02", 0.15, "", ""]]
    faults = read_gaze(gaze_file(tmp_path, rows), clips).faults
    wanted = {"outside_frame": 1, "beyond_end": 1, "unknown_clip": 1, "missing_sample": 1, "clip_without_gaze": 11}
    assert {kind: faults[kind] for kind in wanted} == wanted
    assert faults["frame_without_gaze"] == 4  # what was looked at lies far outside, or after the end


def test_gaze_of_other_clips_is_refused(clips: CachedClips, tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match="none of its clips is one of this study"):
        read_gaze(gaze_file(tmp_path, [["x", 0.1, 10, 10]]), clips)
    with pytest.raises(SonokitError, match="more than 0 pixels"):
        read_gaze(gaze_file(tmp_path, [["c02", 0.1, 10, 10]]), clips, degree_px=0)


def test_another_mask_of_the_same_size_is_another_study(clips: CachedClips, tmp_path: Path) -> None:
    tables = []
    for row in (15, 20):  # of one pixel that is left out: the box and the area are the same
        mask = marked()["c02"].regions[0].mask.copy()
        mask[row, 10] = False
        (tmp_path / str(row)).mkdir()
        images = {"c02": ImageRegions((WIDTH, HEIGHT), (Region.of("sign", mask),))}
        tables.append(write("masks", tmp_path / str(row), images))
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert len({read_regions(table, clips).fingerprint for table in tables}) == 2


def marked() -> dict[str, ImageRegions]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[12:28, 6:22] = True
    return {"c02": ImageRegions((WIDTH, HEIGHT), (Region.of("sign", mask),))}


def write(kind: str, folder: Path, images: dict[str, ImageRegions]) -> Path:
    targets = {"coco": "r.json", "cvat": "r.xml", "boxes": "boxes.csv", "masks": "regions.csv", "maps": ""}
    writers = {"coco": write_coco, "cvat": write_cvat, "boxes": write_boxes_csv, "masks": write_mask_files}
    if kind == "maps":
        write_label_maps(folder / "maps", images)
        return folder / "maps"
    writers[kind](folder if kind == "masks" else folder / targets[kind], images)
    return folder / targets[kind]


@pytest.mark.parametrize("kind", ["coco", "cvat", "boxes", "masks", "maps"])
def test_regions_of_any_format_lie_on_their_clip(clips: CachedClips, tmp_path: Path, kind: str) -> None:
    known = read_regions(write(kind, tmp_path, marked()), clips)
    seen = known.on(views_of(clips), 2)
    assert seen.regions is not None
    assert seen.annotated is not None
    assert seen.annotated.tolist() == [False, False, True, True, False, False]
    assert (seen.regions[[0, 1, 4, 5]] == 0).all()
    # scaled by 2/3, 27 rows below 6 empty ones: rows 12:28 → 14:24.7, columns 6:22 → 4:14.7
    rows, columns = np.nonzero(seen.regions[2] > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (14, 24, 4, 14)
    assert np.array_equal(seen.regions[2], seen.regions[3])
    # what is marked is where the frame is bright: c02 has no square there, c05 has
    bright = clip_views(clips, np.array([5]), None, size=SIDE, frames_per_clip=1).frames[0]
    assert bright[seen.regions[2] == 255].min() > bright[seen.regions[2] == 0].mean()


def test_images_may_be_named_by_path(clips: CachedClips, tmp_path: Path) -> None:
    for name in ("clips/c02.gif", "c02.gif"):
        assert read_regions(write("coco", tmp_path, {name: marked()["c02"]}), clips).annotated.tolist().index(True) == 2


def test_regions_that_fit_no_clip_are_refused(clips: CachedClips, tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match=r"no region for a clip of this study .*unknown image: 1"):
        read_regions(write("coco", tmp_path, {"other": marked()["c02"]}), clips)
    small = ImageRegions((6, 4), (Region.of("sign", np.ones((4, 6), dtype=bool)),))
    with pytest.raises(SonokitError, match="size mismatch: 1 of 1"):  # drawn on another size: not placed by guess
        read_regions(write("coco", tmp_path, {"c02": small}), clips)
    (tmp_path / "r.txt").write_text("x")
    with pytest.raises(SonokitError, match="none of COCO JSON"):
        read_regions(tmp_path / "r.txt", clips)


def test_a_clip_that_is_gone_is_told(clips: CachedClips, tmp_path: Path) -> None:
    moved = clips.select(np.arange(len(clips)) < 2)
    moved.manifest = replace(moved.manifest, folder=tmp_path)
    with pytest.raises(SonokitError, match="clip c00 cannot be read again"):
        recorded_sizes(moved)
