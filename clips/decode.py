"""One function that reads any clip: video, DICOM, still picture, from a local file or from wherever fsspec reaches."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import fsspec

from ..errors import SonokitError
from .decoded import Choose, ClipError, DecodedClip
from .dicom import is_dicom, read_dicom
from .video import read_video

__all__ = ["Choose", "ClipError", "DecodedClip", "content_hash", "read_clip"]


def read_clip(
    path: str,
    choose: Choose | Sequence[int] | None = None,
    *,
    channels: int = 1,
    fast: bool = False,
) -> DecodedClip:
    """Decode the chosen frames of a clip, exactly those that reading it from the first frame on would give.

    Args:
        path: a local file, or a URL that fsspec can open ("s3://…", "memory://…"), which is copied to a temporary file.
        choose: called with the number of frames that really decode and the frame rate in Hz (nan if unknown), it returns the
            wanted frame numbers; or these numbers themselves, in any order; None for all frames.
        channels: 1 for grey (Pillow's "L", ITU-R 601), 3 for RGB.
        fast: let decord seek in plain H.264 mp4 files. It is right on whole files, but takes the container's word for the
            number of frames, so that damage in the middle of a file can go unnoticed. All other files are read as ever.

    Raises:
        ClipError: the clip cannot be used; the message is the reason, without the path.
        SonokitError: ``channels`` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise SonokitError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    with _local(path) as file:
        if is_dicom(file):
            return read_dicom(file, choose, channels)
        return read_video(file, choose, channels=channels, fast=fast)


def content_hash(path: str) -> str:
    """SHA-256 of the file's bytes, hexadecimal.

    Raises:
        ClipError: the file is missing, is a folder or may not be read.
    """
    if not _is_url(path):
        _require_readable(path)
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    with _remote(path), fsspec.open(path, "rb") as handle:
        digest = hashlib.sha256()
        while block := handle.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def _is_url(path: str) -> bool:
    return "://" in path


@contextmanager
def _local(path: str) -> Iterator[str]:
    if not _is_url(path):
        _require_readable(path)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sonokit-") as folder:
        copy = Path(folder) / f"clip{PurePosixPath(path).suffix}"
        with _remote(path), fsspec.open(path, "rb") as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target)
        _require_readable(str(copy))
        yield str(copy)


@contextmanager
def _remote(path: str) -> Iterator[None]:
    protocol = path.split("://")[0]
    try:
        yield
    except FileNotFoundError as error:
        raise ClipError("there is no such file") from error
    except (ImportError, ValueError) as error:  # a protocol that fsspec does not know, or whose package is not installed
        raise ClipError(f"{protocol}:// cannot be opened: {error}") from error
    except OSError as error:
        raise ClipError(f"it cannot be fetched over {protocol}://: {type(error).__name__}") from error


def _require_readable(path: str) -> None:
    try:
        if Path(path).is_dir():
            raise ClipError("it is a folder, not a file")
        if Path(path).stat().st_size == 0:
            raise ClipError("the file is empty")
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        raise ClipError("there is no such file") from error
    except OSError as error:
        raise ClipError(f"the file cannot be read: {error.strerror}") from error
