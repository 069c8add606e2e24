"""Guards the wheel: it holds every Python file of the package, and works where the checkout is not.

The repository's root is the package, so a subpackage that pyproject.toml does not list works in editable mode and is missing
from the wheel. Run as a script by ``make wheel``.
"""

import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_PACKAGE = {"tests", "benchmarks", "examples", "docs", "build", "dist"}
# Quick tests over every floor; the rest of the suite runs once, in the checkout.
TESTS = [
    "test_command_line.py",
    "clips/test_sampling.py",
    "clips/test_manifest.py",
    "features/store/test_store.py",
    "evaluation",
]


def main() -> None:
    """Build, compare, install in a clean environment, test from another folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT), cwd=folder)
        wheel = next((folder / "dist").glob("*.whl"))
        compare(wheel)
        python = install(wheel, folder / "environment")
        run("cp", "-r", str(ROOT / "tests"), str(folder / "elsewhere"), cwd=folder)
        where = run(str(python), "-c", "import sonokit; print(sonokit.__file__)", cwd=folder)
        assert str(folder / "environment") in where, f"the wheel's environment imports sonokit from {where}"
        tests = [f"elsewhere/{name}" for name in TESTS]
        options = [
            "--import-mode=importlib",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            "-c",
            str(ROOT / "pyproject.toml"),
        ]
        print(run(str(python), "-m", "pytest", *options, f"--rootdir={folder}", *tests, cwd=folder).splitlines()[-1])


def compare(wheel: Path) -> None:
    """Assert that the wheel's package files are those of the tree."""
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).split()
    tree = {f for f in tracked if Path(f).suffix in (".py", ".j2", ".typed") and Path(f).parts[0] not in NOT_PACKAGE}
    names = zipfile.ZipFile(wheel).namelist()
    inside = {n.removeprefix("sonokit/") for n in names if n.startswith("sonokit/")}
    missing, extra = sorted(tree - inside), sorted(inside - tree)
    assert not missing, f"missing from the wheel (list their package in pyproject.toml): {missing}"
    assert not extra, f"in the wheel but not in the tree: {extra}"
    strangers = {n.split("/")[0] for n in names} - {"sonokit"}
    assert all(s.endswith(".dist-info") for s in strangers), f"the wheel would install beside sonokit: {strangers}"
    print(f"wheel: {len(inside)} files, the same as the tree's")


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel alone in a new environment that sees this one's dependencies, but not its editable sonokit."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    scheme = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    # A line in a .pth file adds a folder without reading the .pth files in it, and those make the editable install.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return python


def run(*command: str, cwd: Path) -> str:
    """Run a command and return its output; its errors are shown when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
