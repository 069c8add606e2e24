from pathlib import Path

import numpy as np
import pytest
from sonokit.distill.knowledge.gaze import Gaze, gaze_faults, mend, placed
from sonokit.distill.knowledge.gaze_files import Screen, read_gaze_csv, write_gaze_csv
from sonokit.distill.placement import fitted
from sonokit.errors import SonokitError

SCREEN = Screen((100, 50), 2.0)


def written(folder: Path, text: str) -> Path:
    target = folder / "gaze.csv"
    target.write_text(text, encoding="utf-8")
    return target


def test_read_gaze_csv__fixations_of_two_clips(tmp_path: Path) -> None:
    source = written(tmp_path, "Clip_ID;Time_ms;X;Y;Duration_ms\na;0;10,5;20;250\nb;40;30;40;100\na;300;99;49;50\n")
    gaze, faults = read_gaze_csv(source, {"a": SCREEN, "b": SCREEN})
    assert list(gaze) == ["a", "b"]
    np.testing.assert_allclose(gaze["a"].times, [0, 0.3])
    np.testing.assert_allclose(gaze["a"].points, [[10.5, 20], [99, 49]])
    assert gaze["a"].durations is not None
    np.testing.assert_allclose(gaze["a"].durations, [0.25, 0.05])
    assert faults.counts == {}
    assert faults.checked == 3


def test_read_gaze_csv__every_fault_is_counted_and_nothing_is_mended(tmp_path: Path) -> None:
    rows = [
        "a,-0.5,10,10",  # before the clip
        "a,0.5,10,10",
        "a,0.4,10,10",  # backward
        "a,0.4,10,10",  # repeated
        "a,0.6,.,.",  # a blink
        "a,0.7,100,10",  # beyond the right edge, 99.5
        "a,0.8,-0.5,49.5",  # just on the edges: inside
        "a,2.5,10,10",  # after the clip
        "z,0.1,10,10",
    ]
    source = written(tmp_path, "clip_id,time,x,y\n" + "\n".join(rows) + "\n")
    gaze, faults = read_gaze_csv(source, {"a": SCREEN, "silent": SCREEN})
    assert faults.counts == {
        "negative_time": 1,
        "backward_time": 1,
        "repeated_time": 1,
        "missing_sample": 1,
        "outside_frame": 1,
        "beyond_end": 1,
        "unknown_clip": 1,
        "clip_without_gaze": 1,
    }
    assert faults.checked == 9
    assert faults.examples["outside_frame"] == ["a sample 5"]
    np.testing.assert_array_equal(gaze["a"].times, [-0.5, 0.5, 0.4, 0.4, 0.6, 0.7, 0.8, 2.5])
    np.testing.assert_array_equal(gaze["a"].points[5], [100, 10])
    with pytest.raises(SonokitError, match="1 × negative time"):
        faults.refuse("negative_time", "no_duration")
    faults.refuse("no_duration")


def test_read_gaze_csv__normalised_is_found_out(tmp_path: Path) -> None:
    source = written(tmp_path, "time,x,y\n0,0,0\n1,0.5,0.5\n2,1,1\n")
    gaze, faults = read_gaze_csv(source, Screen((100, 50)))
    np.testing.assert_allclose(gaze[""].points, [[-0.5, -0.5], [49.5, 24.5], [99.5, 49.5]])  # edge to edge
    assert faults["outside_frame"] == 0


@pytest.mark.parametrize("rows", ["0,0,0\n1,1,1\n", "0,0.4,0.5\n1,1.2,0.5\n", "0,,\n"])
def test_read_gaze_csv__units_that_cannot_be_told_are_asked_for(tmp_path: Path, rows: str) -> None:
    source = written(tmp_path, "time,x,y\n" + rows)
    with pytest.raises(SonokitError, match=r"Say units=pixels or units=normalised \(--gaze_units\)"):
        read_gaze_csv(source, SCREEN)
    gaze, _ = read_gaze_csv(source, SCREEN, units="pixels")
    assert len(gaze[""]) == rows.count("\n")


def test_read_gaze_csv__declared_units_win(tmp_path: Path) -> None:
    source = written(tmp_path, "time,x,y\n0,0.4,0.5\n1,1.2,0.5\n")
    gaze, faults = read_gaze_csv(source, SCREEN, units="normalised")
    np.testing.assert_allclose(gaze[""].points[:, 0], [39.5, 119.5])
    assert faults["outside_frame"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,x\n0,1\n", "no column 'y'"),
        ("time,x,y\n0,ten,1\n", "line 2: x is 'ten'"),
        ("time,x,y\n0,1,1,1\n", "line 2: 4 cells, but 3 columns"),
        ("", "is no table"),
        ("time,x,X,y\n0,1,1,1\n", "column 'x' is there more than once"),
    ],
)
def test_read_gaze_csv__unreadable(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SonokitError, match=message):
        read_gaze_csv(written(tmp_path, text), SCREEN, units="pixels")


def test_read_gaze_csv__two_words_about_the_time_unit(tmp_path: Path) -> None:
    source = written(tmp_path, "time_s,x,y\n0,10,10\n")
    with pytest.raises(SonokitError, match="time_s is in s, time_unit says ms"):
        read_gaze_csv(source, SCREEN, time_unit="ms")
    plain = written(tmp_path, "time,x,y\n500,10,10\n")
    assert read_gaze_csv(plain, SCREEN, time_unit="ms")[0][""].times[0] == 0.5


@pytest.mark.parametrize("fixations", [True, False])
def test_write_gaze_csv__reads_back_the_same(tmp_path: Path, fixations: bool) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 50, (20, 2))
    points[3] = np.nan
    gaze = {
        clip: Gaze(np.sort(rng.random(20)), points, rng.random(20) if fixations else None, (100, 50)) for clip in ("a", "b/c")
    }
    write_gaze_csv(tmp_path / "out.csv", gaze)
    read, faults = read_gaze_csv(tmp_path / "out.csv", {"a": SCREEN, "b/c": SCREEN})
    assert faults.counts == {"missing_sample": 2}
    for clip, part in gaze.items():
        np.testing.assert_array_equal(read[clip].times, part.times)
        np.testing.assert_array_equal(read[clip].points, part.points)
        assert (read[clip].durations is not None) == fixations
        if part.durations is not None and read[clip].durations is not None:
            np.testing.assert_array_equal(read[clip].durations, part.durations)


def test_mend__does_what_it_is_told_and_no_more() -> None:
    points = np.array([[10.0, 10], [np.nan, 5], [-9, 60], [20, 20]])
    gaze = Gaze(np.array([1.0, 0.5, 0.7, 0.2]), points, None, (100, 50))
    same = mend(gaze)
    np.testing.assert_array_equal(same.points, points)
    np.testing.assert_array_equal(same.times, gaze.times)
    np.testing.assert_array_equal(mend(gaze, order="sort").times, [0.2, 0.5, 0.7, 1.0])
    np.testing.assert_array_equal(mend(gaze, clock_offset_s=-0.5).times, [0.5, 0.0, 0.7 - 0.5, 0.2 - 0.5])
    assert len(mend(gaze, missing="drop")) == 3
    np.testing.assert_array_equal(mend(gaze, outside="drop").times, [1.0, 0.5, 0.2])  # a blink is not outside
    np.testing.assert_array_equal(mend(gaze, outside="clip").points[2], [-0.5, 49.5])
    with pytest.raises(SonokitError, match="outside must be one of"):
        mend(gaze, outside="fold")  # type: ignore[arg-type]


def test_gaze_faults__a_still_has_no_end() -> None:
    gaze = Gaze(np.array([0.0, 99.0]), np.zeros((2, 2)), np.array([0.1, 0.0]), (10, 10))
    assert gaze_faults(gaze).counts == {"no_duration": 1}
    assert gaze_faults(gaze, 5.0).counts == {"no_duration": 1, "beyond_end": 1}


def test_placed__goes_where_the_image_goes() -> None:
    gaze = Gaze(np.zeros(2), np.array([[-0.5, -0.5], [99.5, 49.5]]), np.ones(2), (100, 50))
    small = placed(gaze, fitted((100, 50), (40, 40)).at_stride(4))
    assert small.size == (10, 10)
    np.testing.assert_allclose(small.points, [[-0.5, 2.0], [9.5, 7.0]])  # ten cells wide, five high in the middle
    with pytest.raises(SonokitError, match="the placement is for"):
        placed(gaze, fitted((50, 100), (40, 40)))
