from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sonokit import cli
from sonokit.clips.augment import OPERATIONS
from sonokit.clips.augment_sheet import SheetSettings, spread_over, write_sheet
from sonokit.clips.simulation.simulate import simulate
from sonokit.errors import SonokitError


class FewClips(list):
    """Stands in for cached clips: ``frames`` of each, and a table of their names."""

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame({"clip_id": [f"clip-{i}" for i in range(len(self))]})


def some_clips(count: int, frames: int = 5, size: int = 32) -> FewClips:
    rng = np.random.default_rng(0)
    return FewClips(SimpleNamespace(frames=rng.integers(0, 256, (frames, size, size), dtype=np.uint8)) for _ in range(count))


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def drawn_pictures(monkeypatch, clips, settings, tmp_path) -> dict[str, np.ndarray]:
    """Title → picture [S, S] of the first row."""
    from matplotlib.axes import Axes

    shown, titles = [], []
    imshow, set_title = Axes.imshow, Axes.set_title
    monkeypatch.setattr(Axes, "imshow", lambda self, picture, **how: (shown.append(picture), imshow(self, picture, **how))[1])
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **how: (titles.append(text), set_title(self, text, **how))[1])
    write_sheet(clips, tmp_path / "sheet.png", settings)
    return dict(zip(titles, shown, strict=False))


def test_write_sheet__a_row_a_clip_and_grey(tmp_path):
    settings = SheetSettings(size=24)
    one, three = (read(write_sheet(some_clips(n), tmp_path / f"{n}.png", settings)) for n in (1, 3))
    assert one.shape[1] == three.shape[1]
    assert 1.5 * one.shape[0] < three.shape[0] < 3 * one.shape[0]
    assert (one.max(axis=2) == one.min(axis=2)).all()
    assert not list(tmp_path.glob(".tmp-*"))


def test_write_sheet__columns_of_a_recipe(monkeypatch, tmp_path):
    clips = some_clips(1)
    cells = drawn_pictures(monkeypatch, clips, SheetSettings(size=32, mask_sector=True), tmp_path)
    singles = [name if name != "shadows" else "shadows\n(off unless asked)" for name in OPERATIONS]
    assert list(cells) == ["original", "sector only", *singles, "all, draw 1", "all, draw 2", "all, draw 3"]
    middle = clips[0].frames[2] / 255
    np.testing.assert_allclose(cells["original"], middle, atol=1e-6)
    np.testing.assert_allclose(cells["flip"], middle[:, ::-1], atol=1e-4)
    different = {cells[name].tobytes() for name in cells if name not in ("original", "sector only")}
    assert len(different) == len(OPERATIONS) + 3


@pytest.mark.parametrize(("name", "columns"), [("reference", 4), ("none", 2)])
def test_write_sheet__recipes_without_operations(monkeypatch, tmp_path, name, columns):
    cells = drawn_pictures(monkeypatch, some_clips(1), SheetSettings(augment=name, size=32), tmp_path)
    assert len(cells) == columns


def test_write_sheet__seed_decides(tmp_path):
    pictures = [read(write_sheet(some_clips(1), tmp_path / "s.png", SheetSettings(size=24, seed=s))) for s in (1, 1, 2)]
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] != pictures[2]).any()


def test_write_sheet__stills(tmp_path):
    assert write_sheet(some_clips(1, frames=1), tmp_path / "still.png", SheetSettings(size=24)).exists()


def test_write_sheet__nonsense_is_refused(tmp_path):
    with pytest.raises(SonokitError, match=r"--out ends in \.png"):
        write_sheet(some_clips(1), tmp_path / "sheet.docx", SheetSettings(size=24))
    with pytest.raises(SonokitError, match="1 to 20 clips, not 21"):
        write_sheet(some_clips(21), tmp_path / "sheet.png", SheetSettings(size=24))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [{"augment": "strong"}, {"size": 4}, {"seed": -1}, {"strength": -1.0}])
def test_sheet_settings__nonsense_is_refused(bad):
    with pytest.raises(SonokitError, match=str(next(iter(bad.values())))):
        SheetSettings(**bad)


def test_spread_over__ends_and_middle():
    assert np.flatnonzero(spread_over(11, 3)).tolist() == [0, 5, 10]
    assert spread_over(2, 5).tolist() == [True, True]
    assert np.flatnonzero(spread_over(7, 1)).tolist() == [0]
    for rows in (0, 21):
        with pytest.raises(SonokitError, match="--rows must be 1 to 20"):
            spread_over(30, rows)


def test_augmentations__command(tmp_path, capsys):
    manifest = simulate(tmp_path / "sim", patients=3, clips_per_patient=1, sites=1, seconds=0.3, size=64, seed=0)
    out = tmp_path / "sheet.png"
    words = ["augmentations", str(manifest), "--out", str(out), "--size", "32", "--frames", "3", "--rows", "2"]
    words += ["--cache", str(tmp_path / "cache"), "--mask_sector", "true", "--augment_strength", "1.5"]
    assert cli.main(words) == 0
    assert f"2 clips -> {out}" in capsys.readouterr().out
    assert read(out).size
    assert cli.main([*words[:2], "--rows", "0"]) == 2
    assert "--rows must be 1 to 20, it is 0" in capsys.readouterr().err
