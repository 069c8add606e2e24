import csv
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import onnx
import pytest
import torch
from sonokit.cli_distill import export
from sonokit.cli_experts import predict
from sonokit.clips.decode import read_clip
from sonokit.clips.letterbox import letterbox
from sonokit.distill.export.choice import Candidate, Limits, choose_form, fastest, greatest_differences, session_of, speed_up
from sonokit.distill.export.division import Checks, parted
from sonokit.distill.export.export import card, export_model, require_free
from sonokit.distill.export.run import ExportedModel, segment_frames
from sonokit.distill.export.sources import open_source
from sonokit.distill.students.folder import load_student
from sonokit.distill.training.views import clip_views
from sonokit.errors import SonokitError
from sonokit.features.extractors.biomarkers import SegmentPlan

CLASSES = ("bacterial_pneumonia", "covid19", "normal")

_PREDICT_WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm", "torchvision", "lightly") or name.startswith("sonokit.backbones"):
            raise ImportError("refused: " + name)

sys.meta_path.insert(0, Refuse())
from sonokit.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def exported(student: Path, clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "export"
    export_model(open_source(student), clips[:6], Checks(clips[6:8], clips[8:]), folder, forms="fp32", limits=Limits(rounds=2))
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblong film of nine frames."""
    file = tmp_path_factory.mktemp("films") / "film.avi"
    rng = np.random.default_rng(2)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 120, 80, "yuvj420p"
        for k in range(9):
            picture = rng.integers(0, 28 * (k + 1), (80, 120, 1)).astype(np.uint8).repeat(3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file


def _by_torch(student: Path, file: Path) -> np.ndarray:
    """The road of training: cached frames, views, the classifier, the mean of the frames' probabilities."""
    classifier, note = load_student(student)
    clip = read_clip(str(file), lambda count, rate: (2 * np.arange(5) + 1) * count // 10)
    cached = np.stack([letterbox(frame, note.cache_size) for frame in clip.frames])
    views = clip_views([SimpleNamespace(frames=cached)], np.zeros(1, dtype=np.int64), None, size=note.size)
    with torch.no_grad():
        return classifier(views.batch(slice(None)).frames).softmax(dim=1).mean(dim=0).numpy()


def test_exported_model__file_to_probability_as_torch(student: Path, exported: Path, film: Path) -> None:
    expected = _by_torch(student, film)
    assert expected.max() - expected.min() > 0.05  # or anything would do
    row = ExportedModel(exported).predict_clips([("film", str(film))])[0]
    assert list(row) == ["clip_id", "prediction", *(f"p_{name}" for name in CLASSES)]
    assert np.allclose([row[f"p_{name}"] for name in CLASSES], expected, atol=1e-4)
    assert row["prediction"] == CLASSES[int(expected.argmax())]


def test_predict__an_exported_folder_without_torch(student: Path, exported: Path, film: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.json"
    arguments = ["predict", str(exported), "--clips", str(film), "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", _PREDICT_WITHOUT_TORCH, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads(out.read_text())[0]
    assert row["clip_id"] == "film"
    found = [row[f"p_{name}"] for name in CLASSES]
    assert np.allclose(found, _by_torch(student, film), atol=1e-4)


def test_predict__an_exported_folder_takes_clips_alone(exported: Path, film: Path, tmp_path: Path) -> None:
    others = ({"model": "x"}, {"why": 3}, {"weights": "timm"}, {"nearest": 3}, {"cache": tmp_path})
    for other in others:
        with pytest.raises(SonokitError, match="exported model: it takes --clips"):
            predict(exported, tmp_path / "out.csv", clips=film, **other)
    with pytest.raises(SonokitError, match="say with --clips"):
        predict(exported, tmp_path / "out.csv")


def test_export_model__says_what_it_wrote(exported: Path) -> None:
    note = json.loads((exported / "export.json").read_text())
    assert note["form"] == "fp32"
    assert note["difference"] < 1e-5
    assert note["bytes"] == (exported / "model.onnx").stat().st_size
    assert note["sampling"] == {"frames": 5, "rate_hz": None}
    assert "10,195 parameters" in (exported / "CARD.md").read_text()  # 10 000, and 3 × 65 of the linear layer


def test_choose_form__every_form_is_made_and_an_unfaithful_one_is_not_taken(
    student: Path, exported: Path, clips: list[np.ndarray]
) -> None:
    source = open_source(student)
    model, chosen, rows = choose_form(onnx.load(exported / "model.onnx"), source, clips[:6], clips[6:], Limits(rounds=1))
    forms = {row.form: row for row in rows}
    assert {row.fault for row in rows} == {None}
    assert len(forms) == 10
    assert all(row.faithful == (row.difference <= 0.02) for row in rows)
    assert chosen.faithful
    assert forms["fp32"].difference < 1e-5
    assert all(row.difference > 1e-5 for row in rows if row.form != "fp32")  # they are int8 indeed
    assert forms["int8-qoperator-tensor-all-minmax"].bytes < forms["fp32"].bytes
    found = source.pooled(session_of(model, 1).run(None, {"frames": source.inputs(clips[7])})[0])
    assert np.abs(found - source.expected(clips[7])).max() <= chosen.difference + 1e-6


def test_exported_model__a_clip_that_is_none_is_told_of(
    exported: Path, film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"no film")
    model = ExportedModel(exported)
    assert [row["clip_id"] for row in model.predict_clips([("film", str(film)), ("broken", str(broken))])] == ["film"]
    assert "1 of 2 (broken:" in caplog.text
    with pytest.raises(SonokitError, match="no clip can be used, of 1"):
        model.predict_clips([("broken", str(broken))])


def test_predict__every_clip_left_out_is_listed_beside_the_predictions(exported: Path, film: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    shutil.copy(film, tmp_path / "films" / "film.avi")
    for number in range(7):
        (tmp_path / "films" / f"broken-{number}.avi").write_bytes(b"no film")
    predict(exported, tmp_path / "out.csv", clips=tmp_path / "films")
    with open(tmp_path / "out.rejected.csv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 7
    assert all("broken" in row["clip_id"] and row["reason"] for row in rows)
    predict(exported, tmp_path / "out.csv", clips=film)
    assert not (tmp_path / "out.rejected.csv").exists()
    (tmp_path / "out.rejected.csv").write_text("mine")
    with pytest.raises(SonokitError, match=r"out\.rejected\.csv.* is there already"):
        predict(exported, tmp_path / "out.csv", clips=film)


@pytest.mark.parametrize(
    ("part", "value"),
    [("classes", None), ("size", "48"), ("sampling", {"frames": "5"}), ("outputs", []), ("kind", "extractor"), ("sha256", 3)],
)
def test_exported_model__what_cannot_be_read_is_named(exported: Path, tmp_path: Path, part: str, value: object) -> None:
    note = json.loads((exported / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps({**note, part: value}))
    with pytest.raises(SonokitError, match="damaged .*(segments, segment_frames|" + part + ") cannot be read"):
        ExportedModel(tmp_path)


def test_exported_model__a_runtime_that_cannot_run_it(exported: Path, tmp_path: Path) -> None:
    content = b"of another time"
    note = json.loads((exported / "export.json").read_text())
    (tmp_path / "model.onnx").write_bytes(content)
    (tmp_path / "export.json").write_text(json.dumps({**note, "sha256": hashlib.sha256(content).hexdigest()}))
    with pytest.raises(
        SonokitError, match=f"cannot be run by onnxruntime .*made with {note['made_on']['packages']['onnxruntime']}"
    ):
        ExportedModel(tmp_path)


@pytest.mark.parametrize("options", [{"calibration": 0}, {"calibration": -3}, {"checks": 1}, {"seed": -1}])
def test_export__numbers_are_refused_before_any_work(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(SonokitError, match="calibration clips must be 1 or more"):
        export(tmp_path / "absent", tmp_path / "absent.csv", tmp_path / "out", **options)


def test_greatest_differences__of_a_clip_of_a_frame_and_of_nan(student: Path, clips: list[np.ndarray]) -> None:
    source = open_source(student)
    said = [source.each(clip) for clip in clips[:3]]

    class Session:
        def __init__(self, added: list[np.ndarray]) -> None:
            self.answers = iter([[a + b] for a, b in zip(said, added, strict=True)])

        def get_outputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="probabilities")]

        def run(self, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
            return next(self.answers)

    one_frame, none = np.zeros((5, 3), dtype=np.float32), np.zeros((5, 3), dtype=np.float32)
    one_frame[2, 1] = 0.25
    sessions = {"off": Session([none, one_frame, none]), "nan": Session([none, none * np.nan, none])}
    found = greatest_differences(source, sessions, clips[:3])
    assert found["off"] == (pytest.approx(0.05), pytest.approx(0.25))  # of five frames
    assert found["nan"] == (float("inf"), float("inf"))


def test_export_model__a_form_is_reported_on_other_clips_than_chose_it(exported: Path) -> None:
    note = json.loads((exported / "export.json").read_text())
    checked = note["checks"]
    assert (checked["clips"], checked["choosing_clips"], checked["apart"]) == (4, 2, True)
    assert note["difference"] <= note["frame_difference"] < 1e-5
    assert "on 4 clips that no form was calibrated on, nor the form chosen by" in (exported / "CARD.md").read_text()
    row = Candidate("fp32", 1, 0.0, True, {"1": 1.0, "16": 1.0})
    assert "too few patients" in card({**note, "checks": {**checked, "apart": False}}, [row])
    assert "That is MORE than is allowed" in card({**note, "difference": 0.5}, [row])


def test_predict__an_exported_backbone_is_asked_in_python_and_its_card_says_so(
    exported: Path, film: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    note = {**json.loads((copy / "export.json").read_text()), "kind": "backbone", "classes": []}
    (copy / "export.json").write_text(json.dumps(note))
    with pytest.raises(SonokitError, match=r"ExportedModel\(.*\)\.predict_clips"):
        predict(copy, tmp_path / "out.csv", clips=film)
    said = card(note, [Candidate("fp32", 1, 0.0, True, {"1": 1.0, "16": 1.0})])
    assert "predict_clips(" in said
    assert "sonokit predict" not in said


def test_exported_model__exchanged_damaged_or_missing_files(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    with open(copy / "model.onnx", "ab") as handle:
        handle.write(b"\0")
    with pytest.raises(SonokitError, match="was it replaced"):
        ExportedModel(copy)
    (copy / "model.onnx").unlink()
    with pytest.raises(SonokitError, match=r"model\.onnx is missing"):
        ExportedModel(copy)
    note = json.loads((copy / "export.json").read_text())
    (copy / "export.json").write_text(json.dumps({**note, "schema": 99}))
    with pytest.raises(SonokitError, match="newer sonokit"):
        ExportedModel(copy)
    (copy / "export.json").write_text(json.dumps({k: v for k, v in note.items() if k != "letterbox"}))
    with pytest.raises(SonokitError, match=r"damaged .letterbox missing"):
        ExportedModel(copy)
    (copy / "export.json").unlink()
    with pytest.raises(SonokitError, match="no exported folder"):
        ExportedModel(copy)


def test_require_free__other_things_are_left_alone(exported: Path, tmp_path: Path) -> None:
    require_free(exported)
    require_free(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SonokitError, match="holds something else"):
        require_free(tmp_path)
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / "readings.csv").write_text("mine")
    with pytest.raises(SonokitError, match=r"readings\.csv.*would be lost"):
        require_free(tmp_path / "copy")


@pytest.mark.parametrize(("frames", "segments", "each"), [(16, 4, 2), (7, 16, 1), (1, 4, 3), (30, 5, 4), (3, 3, 2)])
def test_segment_frames__as_the_plan_of_an_extractor(frames: int, segments: int, each: int) -> None:
    assert np.array_equal(segment_frames(frames, segments, each), SegmentPlan(segments, each).choose(frames).numpy())


def _candidate(form: str, one: float, sixteen: float, difference: float) -> Candidate:
    return Candidate(form, 1, difference, difference <= 0.02, {"1": one, "16": sixteen})


def test_fastest__of_the_faithful_ones_and_by_more_than_noise() -> None:
    fp32 = _candidate("fp32", 2.0, 8.0, 0.0)
    twice, unfaithful, hardly = (
        _candidate("a", 1.0, 4.0, 0.01), _candidate("b", 0.1, 0.1, 0.5), _candidate("c", 1.95, 7.9, 0.001),
    )  # fmt: skip
    assert speed_up(twice, fp32) == pytest.approx(2.0)
    assert speed_up(_candidate("d", 1.0, 16.0, 0), fp32) == pytest.approx(1.0)  # twice and half
    assert fastest([fp32, twice, unfaithful, hardly], "auto", 0.02) is twice
    assert fastest([fp32, unfaithful, hardly], "auto", 0.02) is fp32
    near = _candidate("e", 0.98, 3.9, 0.0)  # faster than twice by the clock's noise: the first in order stays
    assert fastest([fp32, twice, near], "auto", 0.02) is twice
    assert fastest([fp32, near, twice], "auto", 0.02) is near
    assert fastest([fp32, unfaithful, hardly], "int8", 0.02) is hardly
    with pytest.raises(SonokitError, match="no int8 form says what torch says"):
        fastest([fp32, unfaithful], "int8", 0.02)


def test_parted__no_patient_on_both_sides() -> None:
    codes = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4])
    frames = [np.full((1, 4, 4), place, dtype=np.uint8) for place in range(9)]

    class Clips:
        manifest = SimpleNamespace(group_codes=lambda: codes)

        def __getitem__(self, place: int) -> SimpleNamespace:
            return SimpleNamespace(frames=frames[place])

    def places(part: list[np.ndarray]) -> list[int]:
        return [int(clip[0, 0, 0]) for clip in part]

    known, checks = parted(Clips())
    calibration, choosing = places(known), places(checks.choosing)
    assert not checks.reporting  # three patients are left: too few for two parts
    assert sorted(calibration + choosing) == list(range(9))
    assert not set(codes[calibration]) & set(codes[choosing])
    codes = np.repeat(np.arange(9), 4)
    frames = [np.full((1, 4, 4), place, dtype=np.uint8) for place in range(36)]
    known, checks = parted(Clips(), most=3, checks=7)
    parts = [places(known), places(checks.choosing), places(checks.reporting)]
    assert [len(part) for part in parts] == [3, 4, 3]
    assert len(set().union(*(codes[part] for part in parts))) == sum(len(set(codes[part])) for part in parts)
