import json
from pathlib import Path

import pytest
from sonokit.atomic import atomic_path, write_json, write_text


def test_atomic_path__replaces_a_file_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    write_text(target, "before")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "before"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


def test_atomic_path__replaces_a_folder_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("old", "new"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_atomic_path__folder_survives_an_exception(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["old"]


def test_write_json__refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1.5, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
