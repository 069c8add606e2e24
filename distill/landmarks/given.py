"""What a user gives to landmark distillation: a table of points in any of the known forms, and a list of test images."""

from pathlib import Path

from ...errors import SonokitError
from ..faults import Faults
from .landmark_files import read_deeplabcut_csv, read_landmarks_csv, read_landmarks_json
from .landmarks import Landmarks


def read_landmarks(source: Path, spacing: float | tuple[float, float] | None = None) -> tuple[Landmarks, Faults]:
    """Landmarks from JSON, a CSV with two columns a landmark, or DeepLabCut's CSV, told apart by their contents.

    Args:
        source: The file.
        spacing: Millimetres a pixel where the file does not say; DeepLabCut's never does, and takes none.

    Raises:
        SonokitError: No such file, or it is of no known form.
    """
    source = Path(source)
    if not source.is_file():
        raise SonokitError(f"There is no file {source}.")
    if source.suffix.lower() == ".json":
        return read_landmarks_json(source, spacing)
    with open(source, encoding="utf-8-sig") as handle:
        first = handle.readline()
    if not first.startswith("scorer,"):
        return read_landmarks_csv(source, spacing)
    if spacing is not None:
        raise SonokitError(f"{source} is of DeepLabCut, which knows pixels only: leave the spacing out, or give a plain CSV")
    return read_deeplabcut_csv(source)


def read_image_list(source: Path) -> list[str]:
    """Names of images, one a line; blank lines are passed over.

    Raises:
        SonokitError: No such file, or it names nothing.
    """
    source = Path(source)
    if not source.is_file():
        raise SonokitError(f"There is no file {source}; a test list names one image a line.")
    names = [line.strip() for line in source.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not names:
        raise SonokitError(f"{source} names no image: write one a line.")
    return names
