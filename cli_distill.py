"""Make tiny models of large ones and of what experts know."""

from pathlib import Path
from typing import Any, Literal

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
    gaze_units: Literal["auto", "pixels", "normalised"] = "auto",
    gaze_time: Literal["auto", "s", "ms"] = "auto",
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
            ensemble. One that has seen clips which would be scored is refused. Of a CSV you vouch that whatever made it has
            seen labels of none of the scored clips nor of their patients; ordinary out-of-fold predictions are not enough, for
            those of a training clip come from a model that saw the tested clips.
        label: A column of classes; or columns of 0, 1 or empty, separated by commas: each is a finding. An extractor teaches
            findings only.
        out: The folder to make: student/, report.html, CARD.md.
        student: micro-10k, micro-25k, micro-50k, micro-100k, or a timm name.
        signals: What the student learns from, as name or name=weight, separated by commas: labels, response, feature_sharing,
            attention, relational, region_overlap. Or a YAML or JSON file of names with weight and options.
        weights: Of a teacher that is a timm name: "none", "timm" (fetched), or a local .safetensors file. One of a folder of
            ours is asked whose labels it has seen, as that folder would be.
        student_weights: Of a student that is a timm name.
        members: Train so many networks from each backbone, with seeds of their own, and teach with all of them.
        gaze: A CSV of where an expert looked (clip_id, time, x, y and, of fixations, duration), shown to the teacher only.
            Faults are counted and printed.
        gaze_delay: Seconds to add to its times: how much the tracker's clock is behind the clip's.
        gaze_units: Of x and y: pixels of the clip, or normalised (0 to 1 from edge to edge); auto refuses what leaves a doubt.
        gaze_time: Seconds or milliseconds; auto goes by the column's name (time_ms) and takes others for seconds.
        degree_pixels: Pixels of the clip that a degree of visual angle spans (default: a twentieth of its longer side).
        regions: What experts marked: COCO JSON, CVAT XML, a CSV of boxes or mask files, or a folder of label maps, each for a
            whole clip. Shown to the teacher only, and the measure of the signal region_overlap.
        splits: From sonokit split (default: an extractor set's own, or made from the clips that take part).
        where: Only clips with these values, such as probe=convex,site=s2.
        classes: Only these classes, separated by commas. Without it, classes of fewer patients than folds are left out.
        size: Side of the student's frames, in pixels.
        teacher_size: Side of the frames of a teacher that is trained here, at least the student's (default: that, or an
            extractor's; where an extractor wants more, all teachers see more).
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
        cache: The folder of decoded frames. CACHE/teachers keeps the teachers that were trained here and what teachers said of
            the views, so that another student, other signals or epochs with another --out need neither again; with signals that
            compare maps it grows large, and it can be deleted at any time.
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
    from .distill.training.teachers import (
        device_of,
        is_timm_name,
        kind_of_question,
        open_source,
        require_weights_used,
        teacher_frames,
        timm_name,
    )

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
    if gaze is None and (gaze_delay or degree_pixels is not None or (gaze_units, gaze_time) != ("auto", "auto")):
        raise SonokitError(
            "--gaze_delay, --gaze_units, --gaze_time, --degree_pixels say how --gaze is read: name its file or leave them out"
        )
    device_of(device)
    require_weights_used(named, weights)
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
        knowledge = read_gaze(
            gaze,
            asked.clips,
            delay_s=gaze_delay,
            degree_px=degree_pixels,
            units=gaze_units,
            time_unit=gaze_time,
            progress=True,
        )
    elif regions is not None:
        knowledge = read_regions(regions, asked.clips, progress=True)
    own = {one: weights if is_timm_name(one) else "none" for one in named}
    report = run(
        asked,
        [open_source(one, asked.classes, asked.kind, weights=own[one], seed=seed) for one in named],
        out,
        settings,
        told,
        splits=division,
        knowledge=knowledge,
        notes=notes,
        config=config,
        device=device,
        progress=True,
        kept=cache / "teachers",
    )
    print(report_table(report))
    print(f"\nstudent -> {out / 'student'} (read {out / 'report.html'})")


def distill_landmarks(
    images: Path,
    landmarks: Path,
    out: Path,
    teacher: str = "tf_efficientnet_lite0",
    weights: str = "none",
    student: str = "micro-25k",
    test: Path | None = None,
    folds: int = 5,
    mm_per_px: float | None = None,
    width: int = 192,
    height: int = 240,
    teacher_epochs: int = 36,
    epochs: int = 180,
    looks: int = 20,
    alpha: float = 0.5,
    sharing: float = 2.0,
    seed: int = 0,
) -> None:
    """Teach a small landmark network by a large one, and say how both do on images that neither has seen.

    The teacher learns heat maps and coordinates; the student learns the true points, the teacher's heat maps and its feature
    maps (feature-sharing distillation). Without --test both are trained and scored in folds grouped by patient, and the student
    that is written is trained on all images: docs/distill.md.

    Args:
        images: The folder of the images that the table names.
        landmarks: CSV with two columns a landmark (sella_x, sella_y), JSON, or DeepLabCut's CSV.
        out: The folder to make: student/, teacher/, report.md, report.json, predicted.csv.
        teacher: A timm name, or a landmark model's folder, which must not have seen a test image.
        weights: Of the teacher's backbone: none, timm or a local .safetensors file.
        student: micro-10k, micro-25k, micro-50k, micro-100k or a timm name.
        test: A text file that names one test image a line (default: cross-validation).
        folds: Of the cross-validation.
        mm_per_px: Where the table has no spacing; without any, errors are in pixels.
        width: Of the networks' input, in pixels; images are made to fit.
        height: The same.
        teacher_epochs: Passes over the training images.
        epochs: The student's.
        looks: Augmented looks at each image, each of which the teacher answers once.
        alpha: Share of the teacher's heat maps beside the true ones, 0 to 1.
        sharing: Weight of its feature maps; 0 leaves them out.
        seed: The same seed gives the same networks.
    """
    config = plain_options(locals())
    from .distill.landmarks.distilling import LandmarkSettings
    from .distill.landmarks.folder import load_landmark_model
    from .distill.landmarks.given import read_image_list, read_landmarks
    from .distill.landmarks.held_out import distil_landmarks, landmark_report_text
    from .distill.landmarks.predict import read_grey_images
    from .run_folder import require_same_config, write_config

    require_same_config(out, config)
    truth, faults = read_landmarks(landmarks, mm_per_px)
    for line in faults.lines():
        print(line)
    ready = load_landmark_model(Path(teacher)) if Path(teacher).is_dir() else None
    known: dict[str, Any] = {} if ready else {"teacher": teacher, "teacher_weights": weights}
    settings = LandmarkSettings(
        size=(width, height), student=student, teacher_epochs=teacher_epochs, epochs=epochs, looks=looks,
        alpha=alpha, sharing=sharing, seed=seed, **known,
    )  # fmt: skip
    write_config(out, config)
    report = distil_landmarks(
        read_grey_images(truth, images), truth, out, settings,
        teacher=ready, test=read_image_list(test) if test else None, folds=folds, progress=True,
    )  # fmt: skip
    print(landmark_report_text(report))
    print(f"student -> {out / 'student'}")


def export(
    source: Path,
    clips: Path,
    out: Path,
    forms: Literal["auto", "fp32", "int8"] = "auto",
    difference: float | None = None,
    threads: int = 1,
    calibration: int = 64,
    checks: int = 256,
    cache: Path = Path("sonokit-cache"),
    seed: int = 0,
) -> None:
    """Make a student, extractor, landmark model or backbone ready to run without torch: one folder, ONNX inside.

    Every form (fp32, and int8 in several ways) is made, compared with torch on clips that none was calibrated on, and timed in
    turns; the fastest that says the same is kept. sonokit predict FOLDER --clips runs a student or extractor with onnxruntime
    alone; a landmark model or backbone is asked in Python, as its CARD.md says.

    Args:
        source: The folder of a student (sonokit distill), an extractor, a landmark model or a backbone.
        clips: A manifest of real clips; of a landmark model a folder of images. Half of the patients (or images) calibrate
            int8, a quarter choose the form, and on the rest it is compared with torch (where both have two or more).
        out: The folder to make; export.json and CARD.md in it have the figures of every form. An earlier export is replaced;
            a folder with anything else in it is refused.
        forms: auto the fastest of all, fp32 that alone, int8 the fastest int8 form that still says the same.
        difference: How much the prediction of a clip, the mean over its frames, may change (default: .02 of probability, .02 of
            the greatest feature, half a pixel).
        threads: Of the processor, for which the fastest is looked for.
        calibration: Clips to calibrate with, at most.
        checks: Clips to check with, at most.
        cache: The folder of decoded frames.
        seed: Of the division of the patients.
    """
    from .clips.cache import prepare
    from .clips.manifest import read_manifest
    from .distill.export.choice import Limits
    from .distill.export.division import parted, parted_images, require_numbers
    from .distill.export.export import export_model, require_free
    from .distill.export.sources import frame_settings, open_source

    require_free(out)
    require_numbers(calibration, checks, seed)
    opened = open_source(source)
    limits = Limits(difference=difference, threads=threads)
    if opened.note["kind"] == "landmarks":
        known, others = parted_images(clips, tuple(opened.note["size"]), most=calibration, checks=checks, seed=seed)
    else:
        cached = prepare(read_manifest(clips), cache, frame_settings(opened))
        known, others = parted(cached, most=calibration, checks=checks, seed=seed)
    note = export_model(opened, known, others, out, forms=forms, limits=limits)
    print((out / "CARD.md").read_text(encoding="utf-8"))
    print(f"export ({note['form']}, {note['bytes']:,} bytes) -> {out}")
