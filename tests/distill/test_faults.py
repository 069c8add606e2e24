import pytest
from sonokit.distill.faults import Faults
from sonokit.errors import SonokitError


def test_faults__count_and_keep_three_places() -> None:
    found = Faults("gaze.csv", 10)
    assert not found
    found.add("outside_frame", 0, ["nowhere"])
    assert not found
    found.add("outside_frame", 4, ["line 2", "line 3", "line 4", "line 5"])
    found.add("negative_time", 1, ["line 9"])
    assert found.lines() == ["outside frame: 4 of 10 (line 2, line 3, line 4, …)", "negative time: 1 of 10 (line 9)"]
    assert found.as_dict() == {
        "source": "gaze.csv",
        "checked": 10,
        "counts": {"outside_frame": 4, "negative_time": 1},
        "examples": {"outside_frame": ["line 2", "line 3", "line 4"], "negative_time": ["line 9"]},
    }


def test_faults__merge_adds_up() -> None:
    found, other = Faults("all", 5), Faults("b", 7)
    found.add("x", 1, ["a"])
    other.add("x", 2, ["b", "c"])
    other.add("y", 3)
    found.merge(other)
    assert (found.checked, found.counts, found.examples) == (12, {"x": 3, "y": 3}, {"x": ["a", "b", "c"], "y": []})


def test_faults__refuse_only_what_is_named() -> None:
    found = Faults("a.csv", 5)
    found.refuse()
    found.add("x_y", 2, ["line 1"])
    found.refuse("z")
    for kinds in ((), ("x_y",)):
        with pytest.raises(SonokitError, match=r"a\.csv: 2 × x y \(line 1, …\)"):
            found.refuse(*kinds)
