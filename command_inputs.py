"""What several commands make of the clips, models and splits that a user names; heavy imports happen inside, as there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import SonokitError


def cached_clips(
    manifest: Path,
    cache: Path,
    *,
    size: int,
    frames: int,
    patient: str | None,
    binary: Sequence[str] = (),
    required: Sequence[str] = (),
    settings: Any = None,
) -> Any:
    """The manifest's clips in the frame cache, as ``settings`` or as ``frames`` squares of ``size`` pixels."""
    from .clips.cache import CacheSettings, prepare
    from .clips.manifest import read_manifest
    from .clips.sampling import Sampling

    rows = read_manifest(manifest, patient=patient, binary=binary, required=required)
    return prepare(rows, cache, settings or CacheSettings(size=size, sampling=Sampling(frames=frames)))


def extracted_store(clips: Path, model: str, weights: str, made: Any, cache: Path, folder: Path) -> Any:
    """A store in ``folder`` of a manifest's, a folder's or one clip, cut as the store header ``made`` says."""
    from .clips.cache import CacheSettings, prepare
    from .clips.manifest import read_manifest, write_manifest
    from .clips.sampling import Sampling
    from .clips.scan import clips_at
    from .features.extraction.extract import extract_features as extract
    from .features.store import open_stores

    manifest = clips
    if clips.suffix.lower() not in (".csv", ".parquet"):
        manifest = folder / "manifest.csv"
        write_manifest(clips_at(clips), manifest)
    settings = CacheSettings(size=made.size, sampling=Sampling(**made.sampling))
    cached = prepare(read_manifest(manifest), cache, settings)
    choices = {"segments": made.segments, "segment_frames": made.segment_frames, "dtype": made.dtype}
    return open_stores(extract(cached, model, folder / "store", weights=weights, **choices))


def asked_clip(clip: Path, model: str, weights: str, bank: Any, cache: Path) -> tuple[Any, Any]:
    """A clip's file as a query: what the gallery says of it, and its embedding; its name, twice, where the store has it."""
    import tempfile

    from .features.search import direction_of
    from .features.search.gallery import asked_from

    if not clip.is_file():
        raise SonokitError(f"with --model the query is a clip's file, and there is no file {clip}.")
    if (Path(model) / "set.json").is_file():
        model = str(Path(model) / "final")
    with tempfile.TemporaryDirectory() as folder:
        extracted = extracted_store(clip, model, weights, bank.header, cache, Path(folder))
        if extracted.header.fingerprint != bank.header.fingerprint:
            raise SonokitError(f"{model} did not make {bank.folder}: embeddings of two models cannot be compared.")
        held = bank.frame(["clip_id", "content_hash"])
        same = held.loc[held["content_hash"].isin(extracted.frame(["content_hash"])["content_hash"]), "clip_id"]
        if len(same):
            return same.iloc[0], same.iloc[0]
        return asked_from(extracted, cache), direction_of(extracted)


def labelled_clips(clips: Any, label: str, **choice: Any) -> tuple[Any, Any, tuple[str, ...]]:
    """The clips that can answer for a label (as fit-expert chooses them), what is true of each, and notes on the others."""
    import numpy as np

    from .clips.held_out_column import held_out_by_column
    from .evaluation.probe import LabelledClips
    from .experts.question import pose

    if clips.manifest.patient_column is None:
        clips.manifest.patients()  # tells the user what to do
    table = clips.table if "site" in clips.table else clips.table.assign(site=None)
    column = clips.manifest.patient_column
    out, _ = held_out_by_column(table, column)
    question = pose(table, label, task="classification", patient=column, held_out=out, **choice)
    chosen = clips.select(np.isin(clips.table["clip_id"].to_numpy(dtype=str), question.clip_ids))
    labelled = LabelledClips(question.clip_ids, question.patients, question.truth, question.classes, question.sites)
    return chosen, labelled, question.notes


def training_side(clips: Any, splits: Any, fold: int) -> Any:
    """The clips that fold ``fold`` may learn from."""
    import numpy as np

    if not 0 <= fold < len(splits.folds):
        raise SonokitError(f"--fold {fold}: the splits have folds 0 to {len(splits.folds) - 1}.")
    splits.check(clips.table["clip_id"])
    return clips.select(np.isin(clips.table["clip_id"].to_numpy(dtype=str), splits.train_ids(fold)))


def require_model(spec: str) -> None:
    """Refuse a misspelt timm name before hours of decoding."""
    if Path(spec).exists():
        return
    if len(Path(spec).parts) > 1:
        raise SonokitError(f"there is no folder {spec}: name a backbone or extractor folder, or a timm model.")
    from .backbones.build import require_known

    require_known(spec)


def relative_paths(paths: Any, folder: Path, target: Path) -> Any:
    """Paths below ``folder``, said from ``target`` (a manifest's paths are relative to its own folder)."""
    import os

    prefix = os.path.relpath(folder.resolve(), target.resolve())
    return paths if prefix == "." else [f"{Path(prefix, p).as_posix()}" for p in paths]
