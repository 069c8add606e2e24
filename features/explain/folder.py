"""``sonokit explain``: a clip's file and an extractor's folder in, a folder with numbers, a picture and a video out."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import write_json
from ...clips.cached_clips import CachedClip
from ...clips.decode import ClipError, content_hash, read_clip
from ...clips.sampling import Sampling
from ...errors import SonokitError
from ...run_folder import write_config
from ..extractors.folder import load_extractor, read_extractor
from .explanation import ExplainSettings, Explanation, explain_clip
from .strip import write_strip
from .video import write_video

_log = logging.getLogger(__name__)
EXPLANATION_SCHEMA = 1


def explain(
    clip: str,
    model: Path,
    out: Path,
    settings: ExplainSettings | None = None,
    *,
    frames: int | None = None,
    film: str | None = None,
    config: dict[str, Any] | None = None,
) -> Explanation:
    """Explain a clip and write ``explanation.json``, ``strip.png`` and ``explanation.mp4``.

    Args:
        clip: A file of any format that a manifest may name, or an fsspec URL.
        model: An extractor folder, or an extractor set, whose final extractor is taken.
        out: The folder; its files are replaced.
        settings: How.
        frames: Evenly spaced frames of the clip; None: as the extractor was trained.
        film: The biomarker whose maps the video shows; None: the most probable of those that are explained.
        config: Settings of the command, for ``config.yaml``.

    Raises:
        SonokitError: The model has no biomarkers, the clip cannot be read, or settings that do not go with them.
    """
    folder = extractor_at(model)
    values = read_extractor(folder)
    _require_empty_or_ours(out)
    extractor = load_extractor(folder)
    seen = read_for_explaining(clip, Sampling(**values["sampling"]) if frames is None else Sampling(frames=frames))
    trained_on = seen.content_hash in values["provenance"]["training_clips"].values()
    if trained_on:
        _log.warning("%s is one of the clips that this extractor was trained on: %s", seen.clip_id, _unseen_by(model, seen))
    explanation = explain_clip(extractor, seen, settings)
    if film is not None and film not in explanation.explained:
        raise SonokitError(f"the video can show {', '.join(explanation.explained)}, not {film!r}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "explanation.json").unlink(missing_ok=True)  # written last: with it the folder is whole
    if config is not None:
        write_config(out, config)
    note = "This clip was used in the extractor's training." if trained_on else ""
    write_strip(explanation, out / "strip.png", title=seen.clip_id, note=note)
    every = len(explanation.frames) == seen.frame_count
    write_video(explanation, out / "explanation.mp4", film, frame_rate=seen.frame_rate if every else math.nan)
    about = {
        "kind": "explanation",
        "schema_version": EXPLANATION_SCHEMA,
        "clip": {"name": seen.clip_id, "content_hash": seen.content_hash, "frame_count": seen.frame_count},
        "extractor": {"folder": str(folder), "fingerprint": values["fingerprint"], "fold": values["fold"]},
        "trained_on_this_clip": trained_on,
    }
    write_json(out / "explanation.json", {**about, **explanation.as_dict()})
    return explanation


def extractor_at(model: Path) -> Path:
    """The extractor folder that ``model`` names: itself, or the final one of a set.

    Raises:
        SonokitError: It is neither.
    """
    if (model / "set.json").is_file():
        kind = json.loads((model / "set.json").read_text(encoding="utf-8")).get("kind")
        if kind == "extractor-set":
            return model / "final"
    elif (model / "extractor.json").is_file():
        return model
    raise SonokitError(
        f"{model} names no biomarkers, so there is nothing to explain: give an extractor folder, or a set of them "
        "(sonokit train-biomarkers makes one from a backbone)"
    )


def read_for_explaining(path: str, sampling: Sampling) -> CachedClip:
    """A clip with its sampled frames in their own shape, uint8 [T, H, W], read from the file.

    Raises:
        SonokitError: It cannot be read.
    """
    try:
        clip, content = read_clip(path, sampling.choose), content_hash(path)
    except (ClipError, OSError, ValueError) as fault:
        raise SonokitError(f"{path} cannot be explained: {' '.join(str(fault).split())}") from fault
    return CachedClip(
        clip_id=path.rsplit("/", 1)[-1],
        content_hash=content,
        frames=clip.frames,
        times_s=np.where(clip.indices == 0, 0.0, clip.indices / clip.frame_rate).astype(np.float32),
        frame_rate=clip.frame_rate,
        container=clip.container,
        frame_count=clip.frame_count,
        declared_count=clip.declared_count,
    )


def _unseen_by(model: Path, clip: CachedClip) -> str:
    """What to do about a clip that the final extractor was trained on."""
    for folder in sorted(model.glob("fold-*/extractor.json"), key=lambda file: int(file.parent.name.split("-")[1])):
        values = json.loads(folder.read_text(encoding="utf-8"))
        if clip.content_hash not in values["provenance"]["training_clips"].values():
            return f"what it says of it is no finding. {folder.parent} has not seen it"
    return "what it says of it is no finding"


def _require_empty_or_ours(out: Path) -> None:
    ours = {"explanation.json", "strip.png", "explanation.mp4", "config.yaml", "environment.json"}
    strangers = (
        sorted(p.name for p in out.iterdir() if p.name not in ours and not p.name.startswith(".")) if out.is_dir() else []
    )
    if strangers:
        raise SonokitError(f"{out} holds other things ({', '.join(strangers[:3])} …); choose another --out")
