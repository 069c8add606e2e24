from pathlib import Path

import numpy as np
import pytest
from sonokit.distill.landmarks.given import read_image_list, read_landmarks
from sonokit.distill.landmarks.landmark_files import write_landmarks_json
from sonokit.errors import SonokitError


def test_read_landmarks__tells_the_forms_apart(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("image,apex_x,apex_y\na.png,3,4.5\n")
    (tmp_path / "deep.csv").write_text("scorer,me,me\nbodyparts,apex,apex\ncoords,x,y\nlabeled/a.png,3,4.5\n")
    plain, _ = read_landmarks(tmp_path / "plain.csv", 0.5)
    write_landmarks_json(tmp_path / "same.json", plain)
    for file in ("plain.csv", "deep.csv", "same.json"):
        found, _ = read_landmarks(tmp_path / file)
        assert (found.images, found.names) == (("a.png",), ("apex",))
        np.testing.assert_array_equal(found.points, [[[3, 4.5]]])
    assert plain.spacing is not None
    np.testing.assert_array_equal(plain.spacing, [[0.5, 0.5]])
    with pytest.raises(SonokitError, match="pixels only"):
        read_landmarks(tmp_path / "deep.csv", 0.5)
    with pytest.raises(SonokitError, match="There is no file"):
        read_landmarks(tmp_path / "absent.csv")


def test_read_image_list__passes_over_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("a.png\n\n  b.png \n")
    assert read_image_list(tmp_path / "test.txt") == ["a.png", "b.png"]
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(SonokitError, match="names no image"):
        read_image_list(tmp_path / "none.txt")
