"""An exported folder at work: clip files in, predictions out, with ONNX Runtime and numpy alone.

Nothing here, nor anything that it imports, needs torch: this is what runs at the point of care. Frames are made as they were in
training: decoded, letterboxed, brought to the network's size (``frames.py``).
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...clips.decode import ClipError, read_clip
from ...clips.letterbox import letterbox
from ...clips.sampling import Sampling
from ...errors import SonokitError
from ..placement import fitted, place_image
from .frames import resized
from .heat_map_points import points_of
from .note import EXPORT_FILE, MODEL_FILE, read_export

_BATCH = 16  # frames at a time: what a core's caches bear

_log = logging.getLogger(__name__)


class ExportedModel:
    """A folder of ``sonokit export``.

    Args:
        folder: The folder.
        threads: That ONNX Runtime may use.

    Attributes:
        note: ``export.json``.
        kind: "classes", "several", "extractor", "backbone" or "landmarks".
        names: Of classes, findings or landmarks; of a backbone none.
        size: Side of the frames that the network takes; of a landmark model the width of its input.

    Raises:
        SonokitError: It is no such folder, a file of it is missing or was exchanged, a newer sonokit wrote it, or this
            ONNX Runtime cannot run it.
    """

    def __init__(self, folder: str | Path, *, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as fault:
            raise SonokitError("onnxruntime is not installed: pip install onnxruntime") from fault
        self.folder = Path(folder)
        self.note = read_export(self.folder)
        self.kind: str = self.note["kind"]
        self.names: tuple[str, ...] = tuple(self.note["classes"])
        self.size = int(self.note["size"][0] if self.kind == "landmarks" else self.note["size"])
        self._sampling = Sampling(**self.note["sampling"])
        content = self._content()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as fault:  # its own kinds of exception, one for each way to fail
            raise SonokitError(
                f"{self.folder / MODEL_FILE} cannot be run by onnxruntime {onnxruntime.__version__}, it was made with "
                f"{_made_with(self.note)}: install that version, or export again ({(str(fault).splitlines() or [''])[0][:200]})"
            ) from fault

    def run(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """What the network says, by the names of its outputs.

        Args:
            frames: uint8 [B, size, size]; of an extractor one clip's segments, [S, F, size, size].
        """
        said = self._session.run(None, {self.note["input"]: np.ascontiguousarray(frames)})
        return dict(zip(self.note["outputs"], said, strict=True))

    def clip_frames(self, path: str) -> np.ndarray:
        """The sampled frames of a clip as the network takes them, uint8 [T, size, size].

        Raises:
            ClipError: The clip cannot be used; the message is the reason.
        """
        grey = read_clip(path, self._sampling.choose).frames
        return resized(np.stack([letterbox(frame, self.note["letterbox"]) for frame in grey]), self.size)

    def predict_frames(self, frames: np.ndarray) -> np.ndarray:
        """Of one clip's frames, uint8 [T, size, size], the probabilities float32 [K]; of a backbone the mean features [D].

        A classifier's are the mean over the frames; an extractor pools its segments as it was trained to.

        Raises:
            SonokitError: It finds landmarks: those belong to a frame, see :meth:`landmarks`.
        """
        if self.kind == "landmarks":
            raise SonokitError(f"{self.folder} finds landmarks, which belong to a frame and not to a clip")
        if self.kind == "extractor":
            chosen = segment_frames(len(frames), self.note["segments"], self.note["segment_frames"])
            return np.asarray(self.run(frames[chosen])["probabilities"][0])
        output = self.note["outputs"][0]
        said = [self.run(frames[start : start + _BATCH])[output] for start in range(0, len(frames), _BATCH)]
        return np.asarray(np.concatenate(said).mean(axis=0, dtype=np.float64), dtype=np.float32)

    def landmarks(self, images: Sequence[np.ndarray], *, least_peak: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Points (x, y) in pixels of the images as they came, float64 [N, L, 2], and how high their peaks are, float32 [N, L].

        Args:
            images: Grey, uint8 [H, W] of any size each.
            least_peak: A landmark whose heat map rises nowhere above this is absent (nan); None keeps all. As
                :func:`~sonokit.distill.landmarks.folder.predict_landmarks` does.

        Raises:
            SonokitError: It is no landmark model.
        """
        if self.kind != "landmarks":
            raise SonokitError(f"{self.folder} finds no landmarks: it is an exported {self.kind} model")
        width, height = self.note["size"]
        places = [fitted((image.shape[1], image.shape[0]), (width, height)) for image in images]
        points, peaks = [], []
        for image, place in zip(images, places, strict=True):
            maps = self.run(place_image(image, place)[None])["heat_maps"]
            found, height_of = points_of(maps, self.note["decoding"])
            absent = height_of[0][:, None] < (-np.inf if least_peak is None else least_peak)
            points.append(np.where(absent, np.nan, place.at_stride(self.note["stride"]).to_original(found[0])))
            peaks.append(height_of[0])
        return np.stack(points), np.stack(peaks)

    def predict_clips(
        self, clips: Iterable[tuple[str, str]], *, rejected: list[tuple[str, str]] | None = None
    ) -> list[dict[str, Any]]:
        """A row a clip: ``clip_id``, ``prediction``, ``p_<class>`` of each class; clips that cannot be used are told of.

        Of several findings the prediction names those of one half or more, joined by "; ". Of a backbone the columns are
        ``f_0`` … instead.

        Args:
            clips: (clip_id, path or URL) of each.
            rejected: Gets (clip_id, reason) of each clip that cannot be used, also where that is every clip.

        Raises:
            SonokitError: Not one clip can be used.
        """
        rows: list[dict[str, Any]] = []
        rejected = [] if rejected is None else rejected
        for clip_id, path in clips:
            try:
                said = self.predict_frames(self.clip_frames(path))
            except ClipError as fault:
                rejected.append((clip_id, str(fault)))
                continue
            rows.append({"clip_id": clip_id, **self._columns(said)})
        if rejected:
            examples = "; ".join(f"{clip_id}: {reason}" for clip_id, reason in rejected[:5])
            if not rows:
                raise SonokitError(f"no clip can be used, of {len(rejected)} ({examples})")
            _log.warning("Clips left out: %d of %d (%s)", len(rejected), len(rejected) + len(rows), examples)
        return rows

    def _columns(self, said: np.ndarray) -> dict[str, Any]:
        if self.kind == "backbone":
            return {f"f_{place}": float(value) for place, value in enumerate(said)}
        if self.kind == "classes":
            prediction = self.names[int(said.argmax())]
        else:
            prediction = "; ".join(name for name, value in zip(self.names, said, strict=True) if value >= 0.5)
        return {"prediction": prediction, **{f"p_{name}": float(value) for name, value in zip(self.names, said, strict=True)}}

    def _content(self) -> bytes:
        file = self.folder / MODEL_FILE
        if not file.is_file():
            raise SonokitError(f"{self.folder} is no whole export: {MODEL_FILE} is missing; copy the folder again")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.note["sha256"]:
            raise SonokitError(f"{file} is not the file that {EXPORT_FILE} describes; was it replaced?")
        return content


def _made_with(note: dict[str, Any]) -> str:
    made = note.get("made_on")
    packages = made.get("packages") if isinstance(made, dict) else None
    return str(packages.get("onnxruntime", "another")) if isinstance(packages, dict) else "another"


def segment_frames(frame_count: int, segments: int, frames: int) -> np.ndarray:
    """Frame numbers of a clip's segments, int64 [min(segments, frame_count), frames].

    As :meth:`sonokit.features.extractors.biomarkers.SegmentPlan.choose`.
    """
    count = min(segments, frame_count)
    edges = np.arange(count + 1) * frame_count // count
    starts, lengths = edges[:-1, None], np.diff(edges)[:, None]  # [S, 1]
    chosen: np.ndarray = starts + (2 * np.arange(frames) + 1) * lengths // (2 * frames)
    return chosen
