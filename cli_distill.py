"""Make tiny models of large ones and of what experts know."""

from pathlib import Path
from typing import Literal

from .command_inputs import labelled_clips, require_model
from .command_options import pairs, plain_options, words
from .errors import SonokitError


def distill(
    manifest: Path,
    teacher: str,
    label: str,
    out: Path,
    student: str = "micro-50k",
    signals: str = "labels=0.3,response=0.7",
    weights: str = "none",
    student_weights: str = "none",
    members: int = 1,
    gaze: Path | None = None,
    gaze_delay: float = 0.0,
    degree_pixels: float | None = None,
    regions: Path | None = None,
    splits: Path | None = None,
    where: str | None = None,
    classes: str | None = None,
    size: int = 112,
    teacher_size: int | None = None,
    frames: int = 16,
    frames_per_clip: int = 4,
    looks: int = 8,
    epochs: int = 15,
    teacher_epochs: int = 15,
    batch: int = 32,
    learning_rate: float = 1e-3,
    augment: Literal["ultrasound", "affine", "none"] | None = None,
    folds: int = 5,
    repeats: int = 1,
    device: Literal["cpu", "cuda"] | None = None,
    cache: Path = Path("sonokit-cache"),
    patient: str | None = None,
    seed: int = 0,
) -> None:
    """Make a tiny student of a large teacher, scored beside the teacher and the same student without one.

    In patient-grouped folds a teacher is trained (or taken as it is) and asked once about augmented frames, and two students of
    one size learn from these: one from labels alone, one from the signals. Then a final student learns from all clips. Stopped
    or killed, the same command goes on at the fold where it was.

    Args:
        manifest: The manifest, CSV or Parquet.
        teacher: A backbone folder or timm name (trained here, once a fold), a biomarker extractor or a set of them, a student
            or teacher that this command left, or a predictions CSV of sonokit predict; several, separated by commas, are an
            ensemble. One that has seen clips which would be scored is refused; of a CSV you vouch that it has not.
        label: A column of classes; or columns of 0, 1 or empty, separated by commas: each is a finding. An extractor teaches
            findings only.
        out: The folder to make: student/, report.html, CARD.md.
        student: micro-10k, micro-25k, micro-50k, micro-100k, or a timm name.
        signals: What the student learns from, as name or name=weight, separated by commas: labels, response, feature_sharing,
            attention, relational, region_overlap. Or a YAML or JSON file of names with weight and options.
        weights: Of a teacher that is a timm name: "none", "timm" (fetched), or a local .safetensors file.
        student_weights: Of a student that is a timm name.
        members: Train so many networks from each backbone, with seeds of their own, and teach with all of them.
        gaze: A CSV of where an expert looked (clip_id, time, x, y and, of fixations, duration), shown to the teacher only.
            Faults are counted and printed.
        gaze_delay: Seconds to add to its times: how much the tracker's clock is behind the clip's.
        degree_pixels: Pixels of the clip that a degree of visual angle spans (default: a twentieth of its longer side).
        regions: What experts marked: COCO JSON, CVAT XML, a CSV of boxes or mask files, or a folder of label maps, each for a
            whole clip. Shown to the teacher only, and the measure of the signal region_overlap.
        splits: From sonokit split (default: an extractor set's own, or made from the clips that take part).
        where: Only clips with these values, such as probe=convex,site=s2.
        classes: Only these classes, separated by commas. Without it, classes of fewer patients than folds are left out.
        size: Side of the student's frames, in pixels.
        teacher_size: Side of the frames of a teacher that is trained here (default: the student's, or an extractor's).
        frames: Evenly spaced frames of a clip in the cache; a clip's answer is the mean over them. An extractor's own count.
        frames_per_clip: How many of them are learnt from.
        looks: Augmented views of each of those, drawn once.
        epochs: Of a student, over all views.
        teacher_epochs: Of a teacher that is trained here, each with one new view of each frame.
        batch: Views in a step of the student.
        learning_rate: Peak, of the student.
        augment: ultrasound (the default), affine (the default with gaze and regions, which move along), or none.
        folds: Where no splits are given; 0 makes the final student only, and the report says that nothing was measured.
        repeats: How many divisions; of given splits the first ones.
        device: cpu or cuda (default: a GPU where there is one).
        cache: The folder of decoded frames.
        patient: The column that stands for the patient, where it is not patient_id.
        seed: The same seed gives the same student and the same scores on one machine.
    """
    config = plain_options(locals())
    from .clips.cache import prepare
    from .clips.manifest import read_manifest
    from .clips.sampling import Sampling
    from .clips.splits import read_splits
    from .distill.students.build import build_student
    from .distill.study.asked import asked_classes, asked_findings
    from .distill.study.distill import distill as run
    from .distill.study.expert_knowledge import read_gaze, read_regions
    from .distill.study.settings import DistillSettings, read_signal_words
    from .distill.study.words import report_table
    from .distill.training.teachers import kind_of_question, open_source, teacher_frames, timm_name

    named, columns = words(teacher), words(label)
    settings = DistillSettings(
        student=student,
        student_weights=student_weights,
        size=size,
        teacher_size=teacher_size,
        frames_per_clip=frames_per_clip,
        looks=looks,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        augment=augment,
        members=members,
        teacher_epochs=teacher_epochs,
        folds=folds,
        repeats=repeats,
        seed=seed,
    )
    told = read_signal_words(signals)
    if not columns:
        raise SonokitError("no label is named: give a column of the manifest")
    if gaze is not None and regions is not None:
        raise SonokitError("--gaze and --regions are shown to teachers of two kinds: give one of them")
    for one in named:
        if not one.lower().endswith(".csv"):
            require_model(timm_name(one))
    build_student(student, weights=student_weights)  # refuses an unknown one now, not after an hour of decoding
    division = read_splits(splits) if splits else None
    rows = read_manifest(manifest, patient=patient, required=columns)
    clips = prepare(rows, cache, teacher_frames(named, size=max(size, teacher_size or 0), sampling=Sampling(frames=frames)))
    if kind_of_question(named, columns) == "several":
        if where is not None or classes is not None:
            raise SonokitError("--where and --classes choose among classes; of findings leave them out")
        asked, notes = asked_findings(clips, columns)
    else:
        fewest = sum(fold.repeat == 0 for fold in division.folds) if division and folds else folds
        choice = {"classes": words(classes) if classes else None, "fewest_patients": max(2, fewest)}
        clips, labelled, notes = labelled_clips(clips, columns[0], where=pairs(where), **choice)
        asked = asked_classes(clips, labelled, columns[0])
    knowledge = None
    if gaze is not None:
        knowledge = read_gaze(gaze, asked.clips, delay_s=gaze_delay, degree_px=degree_pixels, progress=True)
    elif regions is not None:
        knowledge = read_regions(regions, asked.clips, progress=True)
    report = run(
        asked,
        [open_source(one, asked.classes, asked.kind, weights=weights, seed=seed) for one in named],
        out,
        settings,
        told,
        splits=division,
        knowledge=knowledge,
        notes=notes,
        config=config,
        device=device,
        progress=True,
    )
    print(report_table(report))
    print(f"\nstudent -> {out / 'student'} (read {out / 'report.html'})")


def export(
    source: Path,
    clips: Path,
    out: Path,
    forms: Literal["auto", "fp32", "int8"] = "auto",
    difference: float | None = None,
    threads: int = 1,
    calibration: int = 64,
    cache: Path = Path("sonokit-cache"),
    seed: int = 0,
) -> None:
    """Make a student, extractor, landmark model or backbone ready to run without torch: one folder, ONNX inside.

    Every form (fp32, and int8 in several ways) is made, compared with torch on clips that none was calibrated on, and timed in
    turns; the fastest that says the same is kept. sonokit predict FOLDER --clips runs it with onnxruntime alone.

    Args:
        source: The folder of a student (sonokit distill), an extractor, a landmark model or a backbone.
        clips: A manifest of real clips; of a landmark model a folder of images. Half of the patients (or images) calibrate
            int8, the other half are checked.
        out: The folder to make; export.json and CARD.md in it have the figures of every form. An earlier export is replaced.
        forms: auto the fastest of all, fp32 that alone, int8 the fastest int8 form that still says the same.
        difference: How much a clip's prediction may change (default: .02 of probability, .02 of the greatest feature, half a
            pixel).
        threads: Of the processor, for which the fastest is looked for.
        calibration: Clips to calibrate with, at most.
        cache: The folder of decoded frames.
        seed: Of the division of the patients.
    """
    from .clips.cache import prepare
    from .clips.manifest import read_manifest
    from .distill.export.choice import Limits
    from .distill.export.export import export_model, parted, parted_images, require_free
    from .distill.export.sources import frame_settings, open_source

    require_free(out)
    opened = open_source(source)
    limits = Limits(difference=difference, threads=threads)
    if opened.note["kind"] == "landmarks":
        known, checks = parted_images(clips, tuple(opened.note["size"]), most=calibration, seed=seed)
    else:
        cached = prepare(read_manifest(clips), cache, frame_settings(opened))
        known, checks = parted(cached, most=calibration, seed=seed)
    note = export_model(opened, known, checks, out, forms=forms, limits=limits)
    print((out / "CARD.md").read_text(encoding="utf-8"))
    print(f"export ({note['form']}, {note['bytes']:,} bytes) -> {out}")
