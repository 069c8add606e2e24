import json
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from sonokit.errors import SonokitError
from sonokit.run_folder import append_metrics, require_same_config, write_config


def test_write_config__repeats_the_options_and_records_the_software(tmp_path: Path) -> None:
    config = {"manifest": "a b.csv", "epochs": 3, "label": None, "classes": ["x", "y"]}
    write_config(tmp_path, config)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == config
    assert json.loads((tmp_path / "environment.json").read_text())["packages"]["numpy"] == version("numpy")


def test_require_same_config__names_what_differs(tmp_path: Path) -> None:
    require_same_config(tmp_path, {"epochs": 3})  # nothing there yet
    write_config(tmp_path, {"epochs": 3, "seed": 0, "out": "here"})
    require_same_config(tmp_path, {"epochs": 3, "seed": 0, "out": "./here"})
    with pytest.raises(SonokitError, match="epochs: 3 there, 4 now"):
        require_same_config(tmp_path, {"epochs": 4, "seed": 0, "out": "here"})


def test_append_metrics__one_object_a_line(tmp_path: Path) -> None:
    append_metrics(tmp_path / "run", {"loss": 1.0})
    append_metrics(tmp_path / "run", {"loss": 0.5})
    assert [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [1.0, 0.5]
