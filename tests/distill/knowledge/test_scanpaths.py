import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from sonokit.distill.knowledge.scanpaths import RADIOLOGISTS, ScanpathStatistics, read_scanpaths, scanpath_statistics
from sonokit.errors import SonokitError

ENTRY = {
    "name": "a.jpg",
    "task": "edema",
    "split": "train",
    "X": [10, 13, 300],
    "Y": [20, 24, 24],
    "T": [0.2, 0.3, 0.0],
    "length": 3,
}


@pytest.mark.parametrize("packed", [True, False])
def test_read_scanpaths__by_hand(tmp_path: Path, packed: bool) -> None:
    data = json.dumps([ENTRY]).encode()
    (tmp_path / "paths").write_bytes(gzip.compress(data) if packed else data)
    (path,), faults = read_scanpaths(tmp_path / "paths")
    assert (path.image, path.task, path.split) == ("a.jpg", "edema", "train")
    np.testing.assert_allclose(path.gaze.times, [0, 0.2, 0.5])
    np.testing.assert_allclose(path.gaze.points[1], [13, 24])
    assert faults.counts == {"no_duration": 1, "outside_frame": 1}
    found = scanpath_statistics([path])
    assert found.counts == (0, 0, 1)
    assert (found.durations[0], found.durations[-1]) == (0.2, 0.3)  # the one of no duration is left out
    assert found.steps[0] == pytest.approx(5 / 224, abs=1e-4)


def test_read_scanpaths__of_another_form(tmp_path: Path) -> None:
    for content, message in (
        ({}, "a list of scanpaths"),
        ([{"name": "a"}], "scanpath 0: name, task"),
        ([ENTRY | {"length": 2}], "length says 2"),
    ):
        (tmp_path / "paths.json").write_text(json.dumps(content))
        with pytest.raises(SonokitError, match=message):
            read_scanpaths(tmp_path / "paths.json")
    (tmp_path / "paths.json").write_bytes(b"\x1f\x8bno")
    with pytest.raises(SonokitError, match="not readable as JSON"):
        read_scanpaths(tmp_path / "paths.json")


def test_draws__follow_the_tables() -> None:
    rng = np.random.default_rng(0)
    statistics = ScanpathStatistics((0, 3, 1), tuple(np.linspace(0, 1, 21)), tuple(np.linspace(2, 4, 21)))
    counts = statistics.draw_counts(rng, 4000)
    assert set(counts) == {2, 3}
    assert np.mean(counts == 2) == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(np.quantile(statistics.draw_durations(rng, 4000), [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    assert np.mean(statistics.draw_steps(rng, 4000)) == pytest.approx(3, abs=0.05)
    again = statistics.draw_durations(np.random.default_rng(5), 3), statistics.draw_durations(np.random.default_rng(5), 3)
    np.testing.assert_array_equal(*again)


def test_radiologists__are_the_real_ones(shared_data: Path) -> None:
    paths, faults = read_scanpaths(shared_data / "gaze" / "gazesearch_2024-07-22.json.gz")
    assert len(paths) == 4875
    assert faults.counts == {"no_duration": 2}
    assert scanpath_statistics(paths) == RADIOLOGISTS
