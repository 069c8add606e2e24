from pathlib import Path

import numpy as np
import pytest
from sonokit.distill.landmarks.landmark_files import (
    read_deeplabcut_csv,
    read_landmarks_csv,
    read_landmarks_json,
    write_landmarks_csv,
    write_landmarks_json,
)
from sonokit.distill.landmarks.landmarks import Landmarks, with_sizes
from sonokit.distill.landmarks.public_sets import (
    CEPHALOMETRIC_NAMES,
    cephalometric_split,
    joined,
    read_cephalometric,
    read_fetal_head,
    read_hand,
    read_tongue,
    with_ordered_ends,
)
from sonokit.errors import SonokitError


def some(spacing: bool = True) -> Landmarks:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 90, (3, 2, 2))
    points[1, 0] = np.nan
    sizes = np.array([[100.0, 90], [np.nan, np.nan], [100, 90]])
    millimetres = np.array([[0.5, 0.25], [0.1, 0.1], [np.nan, np.nan]]) if spacing else None
    return Landmarks(
        ("a.png", "b/c.png", "d.png"), ("lower lip", "tip_1"), points, millimetres, sizes, np.array(["p", "p", "q"])
    )


def assert_same(found: Landmarks, expected: Landmarks) -> None:
    assert (found.images, found.names) == (expected.images, expected.names)
    np.testing.assert_array_equal(found.points, expected.points)
    np.testing.assert_array_equal(found.sizes, expected.sizes)
    np.testing.assert_array_equal(found.patients, expected.patients)
    assert (found.spacing is None) == (expected.spacing is None)
    if found.spacing is not None and expected.spacing is not None:
        np.testing.assert_array_equal(found.spacing, expected.spacing)


@pytest.mark.parametrize("spacing", [True, False])
def test_written_landmarks__are_read_back(tmp_path: Path, spacing: bool) -> None:
    expected = some(spacing)
    write_landmarks_csv(tmp_path / "a.csv", expected)
    write_landmarks_json(tmp_path / "a.json", expected)
    for found, faults in (read_landmarks_csv(tmp_path / "a.csv"), read_landmarks_json(tmp_path / "a.json")):
        assert_same(found, expected)
        assert faults.counts == {"absent_landmark": 1} | ({"no_spacing": 1} if spacing else {})
        assert faults.examples["absent_landmark"] == ["lower lip in b/c.png"]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("x0,y0,x1,y1", ("0", "1")),
        ("sella_x,sella_y,x_1,y_1", ("sella", "1")),
        ("ofd_x1,ofd_y1,ofd_x2,ofd_y2", ("ofd_1", "ofd_2")),
    ],
)
def test_read_landmarks_csv__names_of_columns(tmp_path: Path, header: str, names: tuple[str, ...]) -> None:
    (tmp_path / "a.csv").write_text(f"image,{header},mm_per_px\na,1,2,3,4,0.5\n")
    found, faults = read_landmarks_csv(tmp_path / "a.csv")
    assert found.names == names
    np.testing.assert_array_equal(found.points, [[[1, 2], [3, 4]]])
    np.testing.assert_array_equal(found.spacing, [[0.5, 0.5]])
    assert faults.counts == {}


def test_read_landmarks_csv__every_fault_is_counted(tmp_path: Path) -> None:
    rows = ["a,10,10,1,2,.2,.1", "b,10,10,9.6,2,.2,.1", "a,10,10,5,5,.2,.1", "c,10,10,1,,.2,.1", "d,10,10,,,0,.1"]
    (tmp_path / "a.csv").write_text("image,width,height,tip_x,tip_y,mm_per_px_x,mm_per_px_y\n" + "\n".join(rows))
    found, faults = read_landmarks_csv(tmp_path / "a.csv")
    assert found.images == ("a", "b", "c", "d")
    assert faults.counts == {"outside_frame": 1, "repeated_image": 1, "half_a_point": 1, "absent_landmark": 1, "no_spacing": 1}
    np.testing.assert_array_equal(found.points[:, 0], [[1, 2], [9.6, 2], [np.nan, np.nan], [np.nan, np.nan]])
    sized = with_sizes(found, {"a": (10, 10), "b": (20, 10), "c": (10, 10)}, faults)
    assert faults["missing_file"] == faults["size_mismatch"] == 1
    assert faults["outside_frame"] == 0  # the image is larger than the table says
    np.testing.assert_array_equal(sized.sizes[:, 0], [10, 20, 10, 10])


def test_read_landmarks__spacing_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,x0,y0\na,1,2\n")
    assert read_landmarks_csv(tmp_path / "a.csv")[0].spacing is None
    np.testing.assert_array_equal(read_landmarks_csv(tmp_path / "a.csv", (0.1, 0.2))[0].spacing, [[0.1, 0.2]])
    (tmp_path / "b.csv").write_text("image,x0,y0,mm_per_px\na,1,2,.5\n")
    with pytest.raises(SonokitError, match="says the spacing already"):
        read_landmarks_csv(tmp_path / "b.csv", 0.1)
    (tmp_path / "c.csv").write_text("image,x0\na,1\n")
    with pytest.raises(SonokitError, match="no pair of columns"):
        read_landmarks_csv(tmp_path / "c.csv")
    (tmp_path / "d.json").write_text('{"names": ["a"], "images": [{"image": "x", "points": {"a": [1]}}]}')
    with pytest.raises(SonokitError, match="are needed"):
        read_landmarks_json(tmp_path / "d.json")


def test_read_deeplabcut_csv__by_hand(tmp_path: Path) -> None:
    text = "scorer,A,A,A,A\nbodyparts,tip,tip,root,root\ncoords,x,y,x,y\nlabeled-data\\c\\i1.png,1,2,,\n"
    (tmp_path / "c.csv").write_text(text)
    found, faults = read_deeplabcut_csv(tmp_path / "c.csv")
    assert (found.images, found.names) == (("i1.png",), ("tip", "root"))
    assert faults.counts == {"absent_landmark": 1}
    np.testing.assert_array_equal(found.present, [[True, False]])
    (tmp_path / "c.csv").write_text(text + "i2.png,1,2,3\n")
    with pytest.raises(SonokitError, match="line 5: 4 numbers"):
        read_deeplabcut_csv(tmp_path / "c.csv")


def test_landmarks__select_and_only() -> None:
    part = some().select(np.array([False, True, True])).only("tip_1")
    assert (part.images, part.names, part.points.shape) == (("b/c.png", "d.png"), ("tip_1",), (2, 1, 2))
    assert joined([part, part]).points.shape == (4, 1, 2)
    with pytest.raises(SonokitError, match="no landmark 'nose'"):
        some().only("nose")
    with pytest.raises(SonokitError, match="can be joined"):
        joined([some(), some(spacing=False)])


def test_read_cephalometric__of_the_real_images(shared_data: Path) -> None:
    found, faults = read_cephalometric(shared_data / "landmarks" / "cephalometric")
    assert faults.counts == {}
    assert found.names == CEPHALOMETRIC_NAMES
    np.testing.assert_array_equal(found.spacing, np.full((300, 2), 0.5))
    train, test = cephalometric_split(found)
    assert (train.images[0], train.images[-1], test.images[0], test.images[-1]) == ("001.jpg", "150.jpg", "151.jpg", "300.jpg")
    np.testing.assert_array_equal(found.points[0, 0], [166.4, 198.8])
    middle = np.median(found.points, axis=0)
    above = dict(zip(found.names, middle[:, 1], strict=True))
    assert above["nasion"] < above["orbitale"] < above["subnasale"] < above["upper lip"] < above["lower lip"] < above["menton"]


def test_read_other_sets__of_the_real_images(shared_data: Path) -> None:
    heads, faults = read_fetal_head(shared_data / "landmarks" / "fetal-head")
    assert (len(heads), heads.names, heads.spacing, faults.counts) == (117, ("ofd_1", "ofd_2", "bpd_1", "bpd_2"), None, {})
    ordered, swapped = with_ordered_ends(heads)
    assert swapped == 50
    assert (ordered.points[:, 0, 0] < ordered.points[:, 1, 0]).all()
    length = np.hypot(*(ordered.points[:, 1] - ordered.points[:, 0]).T)
    np.testing.assert_allclose(length, np.hypot(*(heads.points[:, 1] - heads.points[:, 0]).T))
    hands, faults = read_hand(shared_data / "landmarks" / "hand")
    assert (len(hands), len(hands.names), faults.counts) == (9, 37, {})
    assert hands.spacing is not None
    assert len(np.unique(hands.spacing[:, 0])) == 9
    tongues, faults = read_tongue(shared_data / "landmarks" / "tongue")
    assert (len(tongues), len(tongues.names), len(set(tongues.patients))) == (118, 14, 6)
    assert faults.counts == {"absent_landmark": 5}
