import subprocess
import sys
from pathlib import Path

import pytest
from sonokit.cli import main
from sonokit.command_line import run_command
from sonokit.errors import SonokitError

COMMANDS = (
    "doctor", "scan", "split", "prepare", "simulate", "pretrain", "train-biomarkers", "extract-features", "search",
    "fit-expert", "predict",
)  # fmt: skip

HELP_WITHOUT_HEAVY_IMPORTS = """
import sys
from sonokit.cli import extract_features_main, main
main(["--help"])
for name in sys.argv[1:]:
    for call in (lambda: main([name, "--help"]),):
        try:
            call()
        except SystemExit as stop:
            assert stop.code == 0, name
try:
    extract_features_main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = {"torch", "lightly", "faiss", "timm", "pytorch_lightning", "sklearn", "xgboost", "pandas", "matplotlib", "av"}
loaded = sorted(heavy & set(sys.modules))
assert not loaded, f"--help loads {loaded}"
"""


def faults(capsys: pytest.CaptureFixture[str]) -> str:
    """What was written to standard error, which must be short and no traceback."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_help__every_command_without_heavy_imports() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP_WITHOUT_HEAVY_IMPORTS, *COMMANDS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"usage: sonokit {name}" in done.stdout
    assert "usage: extract-features" in done.stdout


def test_help__lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in COMMANDS)


def test_main__unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrian"]) == 2
    text = faults(capsys)
    assert "'pretrian'" in text
    assert "pretrain" in text


def test_run_command__missing_argument_is_one_line_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["scan"])
    assert stop.value.code == 2
    text = faults(capsys)
    assert len(text.strip().splitlines()) == 2
    assert "folder" in text
    assert "--help" in text


def test_run_command__fault_is_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    def command(name: str) -> None:
        raise SonokitError(f"{name} is broken; mend it")

    assert run_command(command, "sonokit try", ["thing"]) == 2
    assert faults(capsys) == "sonokit try: error: thing is broken; mend it\n"


def test_run_command__defect_keeps_its_traceback() -> None:
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(command, "sonokit try", [])


def test_run_command__ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    assert run_command(command, "sonokit try", []) == 130
    assert "same command" in faults(capsys)


def test_run_command__config_file_gives_arguments_and_options(tmp_path: Path) -> None:
    seen = {}

    def command(folder: Path, size: int = 1, name: str | None = None) -> None:
        seen.update(folder=folder, size=size, name=name)

    (tmp_path / "config.yaml").write_text("folder: here\nsize: 3\n")
    assert run_command(command, "sonokit try", ["--config", str(tmp_path / "config.yaml"), "--name", "x"]) == 0
    assert seen == {"folder": Path("here"), "size": 3, "name": "x"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["scan", "nowhere"],
        ["split", "nowhere.csv", "diagnosis"],
        ["prepare", "nowhere.csv"],
        ["pretrain", "nowhere.csv", "--out", "out"],
        ["train-biomarkers", "nowhere.csv", "--out", "out"],
        ["extract-features", "nowhere.csv", "resnet10t", "--out", "out"],
        ["search", "nowhere", "clip"],
        ["fit-expert", "nowhere", "diagnosis", "--out", "out"],
        ["predict", "nowhere", "--out", "out.csv", "--store", "nowhere"],
    ],
)
def test_main__wrong_path_is_named(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    text = faults(capsys)
    assert "nowhere" in text
    assert len(text.strip().splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_main__three_faults_of_a_manifest_come_together(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "manifest.csv").write_text(
        "path,clip_id,patient_id,b_lines\na.mp4,one,p1,1\nb.mp4,two,p1,0\na.mp4,one,p2,1\na.mp4,four,p2,often\n"
    )
    arguments = ["train-biomarkers", str(tmp_path / "manifest.csv"), "--out", str(tmp_path / "out"), "--biomarkers", "b_lines"]
    assert main([*arguments, "--cache", str(tmp_path / "cache")]) == 2
    text = faults(capsys)
    assert "b.mp4" in text  # missing file
    assert "'one'" in text  # repeated clip_id
    assert "often" in text  # not 0 or 1


def test_scan__does_not_overwrite_labels(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "manifest.csv").write_text("path,diagnosis\na.mp4,normal\n")
    assert main(["scan", str(tmp_path)]) == 2
    assert "--overwrite" in faults(capsys)
    assert "normal" in (tmp_path / "manifest.csv").read_text()


def test_scan__paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "clips" / "day 1").mkdir(parents=True)
    (tmp_path / "clips" / "day 1" / "a.mp4").touch()
    assert main(["scan", str(tmp_path / "clips"), "--out", str(tmp_path / "study" / "manifest.csv")]) == 0
    path = (tmp_path / "study" / "manifest.csv").read_text().splitlines()[1].split(",")[0]
    assert (tmp_path / "study" / path).resolve() == (tmp_path / "clips" / "day 1" / "a.mp4").resolve()


def test_doctor__tells_the_device_and_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert torch.__version__.split("+")[0] in text
    assert ("cuda:" in text) == torch.cuda.is_available()
    assert "MISSING" not in text


def test_run_command__a_file_where_a_folder_should_be_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert main(["simulate", "--out", str(tmp_path / "file" / "clips"), "--patients", "1", "--seconds", "0.2"]) == 2
    text = faults(capsys)
    assert str(tmp_path / "file") in text
    assert len(text.strip().splitlines()) == 1


@pytest.mark.parametrize("half", [("--splits", "splits.json"), ("--fold", "0")])
def test_pretrain__splits_without_fold_are_refused(half: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "nowhere.csv", "--out", "out", *half]) == 2
    assert "--splits and --fold" in faults(capsys)


def test_run_command__a_cut_off_option_is_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "nowhere.csv", "--siz", "32"])
    assert "--siz" in faults(capsys)
