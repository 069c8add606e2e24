"""The commands: one thin function each, no logic. Heavy imports happen inside, so that ``--help`` answers at once.

Options that stand in several commands mean the same everywhere: ``manifest`` (one row a clip), ``cache`` (decoded frames that
all commands share), ``patient`` (the column that stands for the patient), ``splits`` (one division for a whole study).
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from . import __version__, cli_distill, cli_experts, cli_store
from .command_inputs import asked_clip, cached_clips, labelled_clips, relative_paths, require_model, training_side
from .command_line import Command, Group, run_command, run_commands
from .command_options import pairs, plain_options, words

_DESCRIPTION = "Learns features from ultrasound video once; clinical questions are answered from them in minutes."


def doctor() -> None:
    """Say what is installed, which device will be used, and what would be faster."""
    from .doctor import examination

    for line in examination():
        print(line)


def scan(folder: Path, out: Path | None = None, overwrite: bool = False) -> None:
    """Write a manifest of the clips in a folder, to fill in labels and patients.

    Every video (mp4, avi, mov, mpeg, gif, …) and DICOM file below the folder becomes one row with its path and clip_id. Add the
    columns patient_id, site, probe and one column a label; an empty cell means unknown, never negative.

    Args:
        folder: The folder of clips.
        out: The manifest, CSV or Parquet (default: FOLDER/manifest.csv).
        overwrite: Replace a manifest that is there. Labels in it are lost.
    """
    from .clips.manifest import scan_folder, write_manifest
    from .errors import SonokitError

    target = out or folder / "manifest.csv"
    if target.exists() and not overwrite:
        raise SonokitError(f"{target} exists and may hold labels. Choose another --out, or say --overwrite true.")
    table = scan_folder(folder)
    table["path"] = relative_paths(table["path"], folder, target.parent)
    write_manifest(table, target)
    print(f"{len(table)} clips -> {target}. Next: fill in patient_id and labels, then sonokit prepare {target}")


def split(
    manifest: Path,
    label: str,
    out: Path = Path("splits.json"),
    folds: int = 5,
    repeats: int = 10,
    held_out: float = 0.0,
    patient: str | None = None,
    seed: int = 0,
) -> None:
    """Divide the clips by patient into stratified folds, once for a whole study.

    Args:
        manifest: The manifest, CSV or Parquet.
        label: The column whose classes are spread evenly over the folds.
        out: The file to write; every other command takes it as --splits.
        folds: Parts of one division; each is the test side once.
        repeats: How many divisions, each with its own seed.
        held_out: Share of the patients put aside for one final test. A column split of the manifest (test, held_out or holdout)
            puts aside those that it names.
        patient: The column that stands for the patient, where it is not patient_id.
        seed: Repeat r uses seed + r.
    """
    from .clips.held_out_column import divide_as_told
    from .clips.manifest import read_manifest
    from .clips.splits import is_splits, read_splits, write_splits
    from .errors import SonokitError

    clips = read_manifest(manifest, patient=patient, required=[label], check_files=False)
    splits, notes = divide_as_told(
        clips.table,
        clips.patients(),
        label=label,
        patient_column=clips.patient_column or "",
        folds=folds,
        repeats=repeats,
        seed=seed,
        held_out=held_out,
    )
    if out.exists() and (not is_splits(out) or read_splits(out).fingerprint() != splits.fingerprint()):
        raise SonokitError(
            f"{out} is there already and holds something else: a study keeps one division. Choose another --out."
        )
    write_splits(splits, out)
    for note in notes:
        print(f"note: {note}")
    print(f"{len(clips)} clips of {len(set(clips.patients()))} patients, {repeats} x {folds} folds -> {out}")


def prepare(
    manifest: Path,
    cache: Path = Path("sonokit-cache"),
    size: int = 224,
    frames: int | None = 16,
    rate_hz: float | None = None,
    workers: int | None = None,
) -> None:
    """Decode every clip once into the frame cache (other commands do it by themselves).

    A second run does only what is missing. What cannot be decoded is listed with its reason in rejected.csv.

    Args:
        manifest: The manifest, CSV or Parquet.
        cache: The folder of decoded frames.
        size: Side of the letterboxed grey square, in pixels.
        frames: Evenly spaced frames a clip (null with --rate_hz).
        rate_hz: Frames a second instead of a number of frames.
        workers: Threads that decode (default: one a core).
    """
    from .clips.cache import CacheSettings
    from .clips.cache import prepare as prepare_clips
    from .clips.manifest import read_manifest
    from .clips.sampling import Sampling

    sampling = Sampling(frames=None if rate_hz else frames, rate_hz=rate_hz)
    settings = CacheSettings(size=size, sampling=sampling)
    clips = prepare_clips(read_manifest(manifest), cache, settings, workers=workers)
    print(f"{len(clips)} clips in {cache / settings.key}; {len(clips.rejected)} rejected")


def simulate(
    out: Path,
    patients: int = 24,
    clips_per_patient: int = 2,
    sites: int = 3,
    seconds: float = 2.0,
    size: int = 160,
    shortcut: bool = False,
    seed: int = 0,
) -> None:
    """Draw labelled lung-ultrasound clips: data to try everything on.

    Args:
        out: The folder to write: clips/ and manifest.csv.
        patients: Number of patients; clips of one patient share an anatomy.
        clips_per_patient: Clips of each.
        sites: Hospitals, each with its own gain, frame rate, container and overlay.
        seconds: Length of a clip.
        size: Side of a frame, in pixels.
        shortcut: Tie the site to the diagnosis, to see whether an evaluation notices.
        seed: The same seed draws the same clips.
    """
    from .clips.simulation.simulate import simulate as draw

    manifest = draw(
        out,
        patients=patients,
        clips_per_patient=clips_per_patient,
        sites=sites,
        seconds=seconds,
        size=size,
        seed=seed,
        shortcut=shortcut,
    )
    print(f"{patients * clips_per_patient} clips -> {manifest}")


def augmentations(
    manifest: Path,
    out: Path = Path("augmentations.png"),
    augment: Literal["ultrasound", "reference", "none"] = "ultrasound",
    augment_strength: float = 1.0,
    mask_sector: bool = False,
    size: int = 224,
    frames: int = 16,
    rows: int = 5,
    cache: Path = Path("sonokit-cache"),
    seed: int = 0,
) -> None:
    """Draw a picture of what an augmentation does to these clips: each operation alone, then whole draws.

    Look at it before a long run: nothing that tells diagnoses apart should be lost.

    Args:
        manifest: The manifest, CSV or Parquet.
        out: The picture: .png, .jpg, .pdf or .svg.
        augment: "ultrasound" keeps the sector, "reference" is the paper's recipe.
        augment_strength: Of "ultrasound"; 0 only resizes, 2 is heavy.
        mask_sector: Blank what lies outside of the sector: text, scales, logos.
        size: Side of a view, in pixels.
        frames: Evenly spaced frames of a clip in the cache.
        rows: How many clips, evenly spaced over the manifest.
        cache: The folder of decoded frames.
        seed: The same seed draws the same picture.
    """
    from .clips.augment_sheet import SheetSettings, spread_over, write_sheet
    from .clips.cache import CacheSettings
    from .clips.cache import prepare as prepare_clips
    from .clips.manifest import read_manifest
    from .clips.sampling import Sampling

    settings = SheetSettings(augment=augment, strength=augment_strength, mask_sector=mask_sector, size=size, seed=seed)
    listed = read_manifest(manifest)
    shown = listed.select(spread_over(len(listed), rows))
    clips = prepare_clips(shown, cache, CacheSettings(size=size, sampling=Sampling(frames=frames)))
    print(f"{len(clips)} clips -> {write_sheet(clips, out, settings)}")


def pretrain(
    manifest: Path,
    out: Path,
    objective: Literal["uscl", "simclr", "moco", "byol", "dino", "hico"] = "uscl",
    pairs: Literal["sample_pairs", "two_views", "nearby_frames"] | None = None,
    backbone: str = "resnet18",
    weights: str = "none",
    label: str | None = None,
    label_weight: float = 0.2,
    splits: Path | None = None,
    fold: int | None = None,
    size: int = 112,
    frames: int = 32,
    epochs: int = 100,
    batch_size: int = 32,
    learning_rate: float = 3e-4,
    weight_decay: float = 1e-4,
    warmup_epochs: int = 5,
    accumulate: int = 1,
    clip_norm: float = 0.0,
    temperature: float | None = None,
    momentum: float | None = None,
    queue: int = 1024,
    dino_outputs: int = 4096,
    alpha: float = 0.5,
    independent_lam: bool = False,
    pair_seconds: float = 1.5,
    same_patient: Literal["apart", "together"] = "apart",
    augment: Literal["ultrasound", "reference", "none"] = "ultrasound",
    augment_strength: float = 1.0,
    shadows: float = 0.0,
    mask_sector: bool = False,
    precision: Literal["auto", "32", "bf16", "fp16"] = "auto",
    compile: bool = False,
    devices: int = 1,
    nodes: int = 1,
    workers: int | None = None,
    probe_label: str | None = None,
    probe_every: int = 10,
    cache: Path = Path("sonokit-cache"),
    patient: str | None = None,
    seed: int = 0,
) -> None:
    """Learn a backbone from clips without labels (USCL, Chen et al. 2021, and its peers), or with some.

    Two views of a clip are pulled together; clips of other patients are pushed away (byol and dino push nothing away). The
    result is a backbone folder that plain timm opens, too. Stopped or killed, the same command goes on from the last checkpoint
    and ends with the same weights. A run whose embeddings collapse stops and says so. Watch it in the folder's metrics.csv or
    with TensorBoard; sonokit augmentations shows what the views look like.

    Args:
        manifest: The manifest, CSV or Parquet.
        out: The backbone folder to make.
        objective: uscl, simclr, moco (v2), byol, dino, or hico (several levels of a CNN).
        pairs: What the two views are made of: "sample_pairs" mixes three frames of a clip (USCL; the default of uscl and hico),
            "two_views" is one frame twice (the default of the others), "nearby_frames" two frames close in time (IVPP).
        backbone: A timm name, or a backbone folder to go on from.
        weights: "none", "timm" (fetched), or a local .safetensors file in timm's naming.
        label: uscl, hico: a column to learn from besides, where it is filled in. A backbone that saw labels must not be
            evaluated on them.
        label_weight: Its weight in the loss (USCL's lambda).
        splits: With --fold: learn from that fold's training clips only.
        fold: Number of the fold in the splits.
        size: Side of a view, in pixels.
        frames: Evenly spaced frames of a clip to draw from.
        epochs: Each epoch draws one pair from every clip.
        batch_size: Clips in a step at most, on each device; each is of another patient, so there are no more than patients.
        learning_rate: Peak, after the warm-up; a cosine to 0 follows.
        weight_decay: Of AdamW.
        warmup_epochs: In which the learning rate rises.
        accumulate: Batches that make one step. Negatives still come from one batch.
        clip_norm: Longest gradient that is taken as it is; 0 takes any.
        temperature: Of the loss (default: the method's own; uscl, simclr, hico .5, moco .2, dino .1).
        momentum: Of the slow network of moco, byol and dino (default: the method's own).
        queue: moco: how many negatives it remembers.
        dino_outputs: dino: how many prototypes. A hundred clips visit few of the 65536 of the paper.
        alpha: sample_pairs: the coefficients come from Beta(alpha, alpha).
        independent_lam: sample_pairs: a coefficient for each view (the paper) instead of one for both (its code).
        pair_seconds: nearby_frames: how far apart they may be.
        same_patient: "apart": a batch has one clip of a patient. "together": batches are drawn from all clips, which makes them
            larger where patients are few. Clips of one patient are never negatives of each other.
        augment: "ultrasound" keeps the sector, "reference" is the paper's recipe.
        augment_strength: Of "ultrasound"; 0 only resizes, 2 is heavy.
        shadows: Acoustic shadows besides, as a factor of that strength; 1 is plausible, 0 is none.
        mask_sector: Blank text, rulers and logos outside of the sector, where they can be told from it by what moves between
            the frames of a pair (so not with two_views).
        precision: "32", "bf16", "fp16" (GPU), or "auto": bf16 on a GPU that has it. bf16 halves the time of a ResNet on a CPU
            that has it, too.
        compile: Build the backbone with torch.compile: a minute before the first step, worth it on a GPU and for long runs.
        devices: How many of this machine's; a CPU counts as many as you say.
        nodes: How many machines; start the same command on each by torchrun or SLURM.
        workers: Reading processes (default: none on a CPU, up to 4 beside a GPU).
        probe_label: A column to look at, never learnt from: a patient-grouped probe while training runs.
        probe_every: Epochs between its looks.
        cache: The folder of decoded frames.
        patient: The column that stands for the patient, where it is not patient_id.
        seed: The same seed gives the same weights on one machine.
    """
    config = plain_options(locals())
    from .clips.splits import read_splits
    from .errors import SonokitError
    from .pretrain.run import is_first_process
    from .pretrain.run import pretrain as run
    from .pretrain.settings import PretrainSettings

    if (splits is None) != (fold is None):
        raise SonokitError("--splits and --fold belong together: which fold's training clips shall it learn from?")
    chosen = {field.name: config[field.name] for field in dataclasses.fields(PretrainSettings) if field.name in config}
    settings = PretrainSettings(**chosen)
    settings.check()
    require_model(backbone)
    required = [column for column in (label, probe_label) if column is not None]
    clips = cached_clips(manifest, cache, size=size, frames=frames, patient=patient, required=required)
    if clips.manifest.patient_column is None and is_first_process():
        print("note: the manifest has no patient_id, so each clip is taken for a patient of its own.", file=sys.stderr)
    if splits is not None and fold is not None:
        clips = training_side(clips, read_splits(splits), fold)
    folder = run(clips, out, settings, config=config, workers=workers, progress=is_first_process())
    if is_first_process():
        print(f"backbone -> {folder}")


def probe(
    manifest: Path,
    backbone: str,
    label: str,
    out: Path,
    weights: str = "none",
    splits: Path | None = None,
    where: str | None = None,
    classes: str | None = None,
    size: int = 224,
    frames: int = 16,
    fine_tune: bool = False,
    biomarkers: str | None = None,
    folds: int = 5,
    repeats: int = 10,
    cache: Path = Path("sonokit-cache"),
    patient: str | None = None,
    seed: int = 0,
) -> None:
    """Say what a backbone is worth for a label, in patient-grouped cross-validation, beside its floors.

    A linear and a nearest-neighbour probe read the label from the frozen backbone's features (mean and spread over a clip's
    frames); with --fine_tune the backbone is trained on it, too, once a fold. A backbone that was fitted on labels of these
    clips is refused; one that saw them without labels is marked as transductive.

    Args:
        manifest: The manifest, CSV or Parquet.
        backbone: A backbone folder, or a timm name.
        label: A column of classes.
        out: The folder of the report. Stopped while fine-tuning, the same command goes on at the fold where it was.
        weights: For a timm name: "none", "timm" (fetched), or a local .safetensors file.
        splits: From sonokit split (default: made from the clips that take part).
        where: Only clips with these values, such as probe=convex,site=s2.
        classes: Only these classes, separated by commas. Without it, classes of fewer patients than folds are left out.
        size: Side of a frame, in pixels.
        frames: Evenly spaced frames of a clip.
        fine_tune: Train the whole backbone as well, in the first division only: a minute or more a fold.
        biomarkers: Columns of 0, 1 or empty, separated by commas: the mean of their AUROCs on the same clips.
        folds: Where no splits are given.
        repeats: Where no splits are given.
        cache: The folder of decoded frames.
        patient: The column that stands for the patient, where it is not patient_id.
        seed: The same seed gives the same figures on one machine.
    """
    config = plain_options(locals())
    from .clips.splits import read_splits
    from .evaluation.fine_tune import FineTuneSettings
    from .evaluation.probe_report import report_table
    from .evaluation.probe_run import ProbeSettings, open_probed, run_probe

    require_model(backbone)
    division, signs = read_splits(splits) if splits else None, words(biomarkers or "")
    clips = cached_clips(manifest, cache, size=size, frames=frames, patient=patient, binary=signs, required=[label, *signs])
    fewest = sum(fold.repeat == 0 for fold in division.folds) if division else folds
    choice = {"classes": words(classes) if classes else None, "fewest_patients": fewest}
    clips, labelled, notes = labelled_clips(clips, label, where=pairs(where), **choice)
    report = run_probe(
        open_probed(backbone, weights=weights, seed=seed),
        clips,
        labelled,
        out,
        ProbeSettings(
            size=size,
            fine_tune=FineTuneSettings() if fine_tune else None,
            biomarkers=signs,
            folds=folds,
            repeats=repeats,
            seed=seed,
        ),
        label=label,
        splits=division,
        where=pairs(where),
        notes=notes,
        config=config,
        progress=True,
    )
    print(report_table(report))
    print(f"\nreport -> {out / 'report.json'}")


def train_biomarkers(
    manifest: Path,
    out: Path,
    backbone: str = "resnet18",
    weights: str = "none",
    biomarkers: str = "a_lines,b_lines,consolidation,effusion,pleural_irregularity",
    splits: Path | None = None,
    tune: Literal["none", "part", "all"] = "none",
    stages: int = 1,
    pooling: Literal["lse", "mean", "attention", "noisy_or"] = "lse",
    temporal_shift: float = 0.0,
    embedding: int = 128,
    epochs: int | None = None,
    class_weights: Literal["balanced", "none"] = "balanced",
    label_smoothing: float = 0.05,
    calibration: Literal["inner", "none"] = "inner",
    batch_norm: Literal["frozen", "batch"] = "frozen",
    size: int = 224,
    frames: int = 16,
    segments: int = 4,
    cache: Path = Path("sonokit-cache"),
    patient: str | None = None,
    seed: int = 0,
) -> None:
    """Train a biomarker extractor from clip-level labels, once a fold.

    Labels are weak: 1 seen somewhere in the clip, 0 not, empty unknown. With --splits it leaves one extractor a fold, each
    blind to its test patients, and a final one; without, one extractor that has seen everything and cannot be evaluated here.
    Beside them: report.json (AUROC and calibration, out of fold), reliability.png, out_of_fold.csv.

    Args:
        manifest: The manifest, with the biomarker columns.
        out: The extractor folder to make.
        backbone: A backbone folder, or a timm name.
        weights: For a timm name: "none", "timm" (fetched), or a local .safetensors file.
        biomarkers: Columns, separated by commas.
        splits: From sonokit split.
        tune: "none" keeps the backbone as it is (seconds a fold), "part" trains its last stages (minutes), "all" all of it.
        stages: How many of the last stages "part" trains.
        pooling: How segments make the clip: "lse" or "noisy_or" (seen once is enough), "mean", or "attention" (learnt).
        temporal_shift: Share of channels exchanged with the neighbouring frames each way (0.125 in the paper; 0 is off).
        embedding: Length of a segment's embedding.
        epochs: Fixed beforehand (default: 30 of the head; with "part" and "all" then 10 and 20 together with the backbone).
        class_weights: "balanced" lets rare positives weigh as much as the many negatives, "none" does not.
        label_smoothing: What a negative's target is raised to, because "not noted" is often written as absent.
        calibration: "inner" calibrates probabilities on inner folds (five trainings instead of one; with "all" only the final
            extractor's, from the folds' predictions), "none" leaves them as trained.
        batch_norm: With "all": "frozen" keeps the backbone's statistics, "batch" is for a network with random weights.
        size: Side of a frame, in pixels.
        frames: Evenly spaced frames of a clip.
        segments: Into which they are divided.
        cache: The folder of decoded frames.
        patient: The column that stands for the patient, where it is not patient_id.
        seed: The same seed gives the same extractor on one machine.
    """
    config = plain_options(locals())
    from .backbones.folder import open_backbone
    from .clips.splits import read_splits
    from .features.extractors.settings import BiomarkerSettings
    from .features.extractors.weak_training import train_biomarkers as train

    require_model(backbone)
    columns = words(biomarkers)
    settings = BiomarkerSettings(
        biomarkers=columns,
        embedding=embedding,
        segments=segments,
        segment_frames=frames // max(1, segments),
        pooling=pooling,
        tune=tune,
        stages=stages,
        epochs=epochs,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        calibration=calibration,
        batch_norm=batch_norm,
        seed=seed,
    )
    settings.check()  # before an hour of decoding
    clips = cached_clips(manifest, cache, size=size, frames=frames, patient=patient, binary=columns, required=columns)
    network = open_backbone(backbone, weights=weights, seed=seed, temporal_shift=temporal_shift)
    folder = train(
        clips,
        network,
        out,
        settings,
        splits=read_splits(splits) if splits else None,
        config=config,
        provenance=Path(backbone) if Path(backbone).is_dir() else None,
    )
    print(f"extractor -> {folder}")


def explain(
    clip: str,
    model: Path,
    out: Path | None = None,
    biomarkers: str | None = None,
    method: Literal["gradcam", "integrated_gradients", "occlusion"] = "gradcam",
    moments: Literal["sliding", "segments"] | None = None,
    frames: int | None = None,
    film: str | None = None,
    checks: bool = True,
    seed: int = 0,
) -> None:
    """Show what an extractor saw in a clip: every biomarker over time, and where in the frame, as a picture and a video.

    A map is a coarse hint and no proof: strip.png and explanation.json say how much of it lies in the sector and how like it is
    to maps of random networks. Explain clips by an extractor that has not seen them; you are warned of others.

    Args:
        clip: A clip of any format, DICOM too, or an fsspec URL.
        model: An extractor folder, or an extractor set (its final extractor).
        out: The folder to write (default: explained-CLIP, here).
        biomarkers: Those to draw maps of, separated by commas (default: all).
        method: How the maps are made. "gradcam" takes seconds; the others minutes, and work for any backbone.
        moments: "sliding": one around every sampled frame; "segments": the extractor's own (default: sliding for gradcam).
        frames: Evenly spaced frames of the clip (default: as many as the extractor was trained on).
        film: The biomarker whose maps the video shows (default: the most probable).
        checks: Compare the maps with those of random networks; without, it is faster.
        seed: Of these.
    """
    config = plain_options(locals())
    from .features.explain.explanation import ExplainSettings
    from .features.explain.folder import explain as write_explanation

    folder = out or Path(f"explained-{Path(clip).stem}")
    settings = ExplainSettings(method, words(biomarkers or ""), moments, checks, seed)
    found = write_explanation(clip, model, folder, settings, frames=frames, film=film, config=config)
    for name, probability in zip(found.biomarkers, found.clip_probabilities, strict=True):
        print(f"{name:24} {probability:.2f}")
    print(f"explanation -> {folder} (look at {folder / 'strip.png'})")


def extract_features(
    manifest: Path,
    model: str,
    out: str,
    weights: str = "none",
    floor: bool = False,
    frames: int = 16,
    segments: int | None = None,
    size: int = 224,
    dtype: Literal["float16", "float32"] = "float16",
    runtime: Literal["auto", "torch", "openvino", "onnxruntime"] = "auto",
    engine: Literal["local", "ray"] = "local",
    ray_workers: int | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    cache: Path = Path("sonokit-cache"),
    patient: str | None = None,
    seed: int = 0,
) -> None:
    """Turn clips into rows of an embedding store, with a frozen model.

    A clip that is in the store already is skipped; one that cannot be decoded is listed in rejected.csv and stops nothing.

    Args:
        manifest: The manifest; its columns travel along.
        model: An extractor folder or set, a backbone folder, or a timm name.
        out: The store to make or to go on with: a folder, or a URL such as s3://bucket/store.
        weights: For a timm name: "none", "timm" (fetched), or a local .safetensors file.
        floor: Besides, the same network with random weights, into OUT/floor: what reports read the score against.
        frames: Evenly spaced frames of a clip.
        segments: Rows of a clip (default: those of the extractor; one a frame for a backbone).
        size: Side of a frame, in pixels. For an extractor, its own frames and size count.
        dtype: Of the embeddings.
        runtime: What computes on a CPU; auto takes OpenVINO or ONNX Runtime where installed and the clips are many enough.
        engine: local, or ray: on the cluster of RAY_ADDRESS, else on one of this machine.
        ray_workers: Of Ray (default: one a core, or one a GPU).
        device: cpu or cuda (default: a GPU where there is one).
        cache: The folder of decoded frames.
        patient: The column that stands for the patient, where it is not patient_id.
        seed: Of random weights.
    """
    config = plain_options(locals())
    from .clips.cache import CacheSettings
    from .clips.manifest import read_manifest
    from .clips.sampling import Sampling
    from .clips.streaming import stream
    from .features.extraction.extract import extract_features as extract
    from .features.extraction.models import frame_settings

    require_model(model)
    settings = frame_settings(model) or CacheSettings(size=size, sampling=Sampling(frames=frames))
    clips = stream(read_manifest(manifest, patient=patient), cache, settings)
    folder = extract(
        clips,
        model,
        out,
        segments=segments,
        floor=floor,
        dtype=dtype,
        weights=weights,
        seed=seed,
        device=device,
        runtime=runtime,
        engine=engine,
        ray_workers=ray_workers,
        config=config,
    )
    left_out = len(clips.rejected)
    rejected = f"; {left_out} rejected, see {out}/rejected.csv" if left_out else ""
    print(f"{len(clips.manifest) - left_out} clips -> {folder}{rejected}")


def search(
    store: str,
    query: str,
    k: int = 5,
    where: str | None = None,
    one_per_patient: bool = False,
    same_patient: bool = False,
    model: str | None = None,
    weights: str = "none",
    kind: Literal["auto", "flat", "fp16", "hnsw", "ivf", "pq"] | None = None,
    gallery: Path | None = None,
    cache: Path = Path("sonokit-cache"),
) -> None:
    """Show the clips of a store that are most similar to one of them, or to a clip from elsewhere.

    Args:
        store: A store, or a store set (its final store is searched): a folder, or a URL.
        query: The clip_id that is asked about; or, with --model, a clip's file.
        k: How many clips.
        where: Only clips with these values, such as probe=convex,site=s2.
        one_per_patient: Of each patient only the most similar clip.
        same_patient: Also show clips of the query's own patient, which are similar for no medical reason.
        model: For a file: the extractor or backbone that made the store.
        weights: For a timm name: "none", "timm" (fetched), or a local .safetensors file.
        kind: The kind of index. flat and fp16 compare every row, hnsw and ivf skip most and find nearly all neighbours, pq
            finds fewest; auto is fp16 up to 100,000 rows and ivf beyond. The index is built where it is not there; without
            this option the one that is there answers.
        gallery: An HTML page to write: the clip beside its neighbours, their frames, labels and biomarkers.
        cache: The frame cache from which the page has its frames.
    """
    from .errors import SonokitError
    from .features.search import search as nearest
    from .features.search.gallery import write_gallery
    from .features.store import StoreSet, open_stores

    if model is None and Path(query).is_file():
        raise SonokitError(f"{query} is a file: say --model, the extractor that made {store}, to have it extracted.")
    stores = open_stores(store)
    bank = stores.final if isinstance(stores, StoreSet) else stores
    asked, vector = (query, query) if model is None else asked_clip(Path(query), model, weights, bank, cache)
    found = nearest(
        bank,
        vector,
        k,
        exclude_same_patient=not same_patient,
        where=pairs(where),
        one_per_patient=one_per_patient,
        kind=kind,
    )
    technical = ["content_hash", "path", "url", "licence", "container", "frame_rate", "extractor_trained_on"]
    print(found.drop(columns=technical, errors="ignore").to_string(index=False))
    if gallery is not None:
        write_gallery(bank, asked, found, gallery, cache if cache.is_dir() else None)
        print(f"gallery -> {gallery}")


def main(arguments: list[str] | None = None) -> int:
    """The console script ``sonokit``."""
    commands: dict[str, Command | Group] = {
        "doctor": doctor,
        "scan": scan,
        "split": split,
        "prepare": prepare,
        "simulate": simulate,
        "augmentations": augmentations,
        "pretrain": pretrain,
        "probe": probe,
        "train-biomarkers": train_biomarkers,
        "explain": explain,
        "extract-features": extract_features,
        "search": search,
        "store": cli_store.COMMANDS,
        "audit": cli_experts.audit,
        "fit-expert": cli_experts.fit_expert,
        "compare": cli_experts.compare,
        "evaluate": cli_experts.evaluate,
        "predict": cli_experts.predict,
        "distill": cli_distill.distill,
        "distill-landmarks": cli_distill.distill_landmarks,
        "export": cli_distill.export,
    }
    return run_commands(commands, _DESCRIPTION, __version__, arguments)


def extract_features_main(arguments: list[str] | None = None) -> int:
    """The console script ``extract-features``, the door that users come through most."""
    return run_command(extract_features, "extract-features", arguments)


if __name__ == "__main__":
    sys.exit(main())
