"""What the experts of ``pocus_experts.py`` are read beside: an oracle, shuffled labels, soft targets, and the five signs.

- *Oracle*: the five true sign labels of a clip as its features: all that a faultless extractor of these signs would say. An
  extractor's probabilities that do better carry something else besides the signs.
- *Shuffled*: patients exchange their labels once, and the whole procedure runs: whatever it scores, it scores by itself.
- *Distilled*: severity's head taught by the ensemble of all heads, or by the fine-tuned network of the same fold, on the clips
  that nobody scored as well, against the same head without them.
- *Few labels*: diagnosis with the labels of half of each training side's patients hidden; the ensemble speaks of their clips.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pocus_expert_stores import first_divisions
from pocus_fine_tuned import DIVISIONS, SEED, TASKS, WHERE
from sonokit.atomic import atomic_path, write_json
from sonokit.clips.splits import Splits
from sonokit.evaluation.chance import chance
from sonokit.evaluation.out_of_fold import FoldRows, fold_rows, out_of_fold
from sonokit.evaluation.predictions import Predictions, predictions_from_dict
from sonokit.evaluation.readout import ReadoutSettings
from sonokit.experts.crossval import QuestionFeatures, cross_validate, cross_validate_read
from sonokit.experts.distilled import (
    Distillation,
    DistilledHead,
    EnsembleTeacher,
    NetworkTeacher,
    distil_out_of_fold,
    distillation_gain,
    find_unlabelled,
    read_soft_targets,
)
from sonokit.experts.distilled.unlabelled import UnlabelledRows
from sonokit.experts.fit import fit_expert
from sonokit.experts.heads import make_head
from sonokit.experts.question import Question, pose
from sonokit.experts.recipes import clip_table
from sonokit.features.store import EmbeddingStore

SIGNS = ("a_lines", "b_lines", "consolidation", "effusion", "pleural_irregularity")
RECIPE = "mean_std"
FEW_LABELS_DIVISIONS = 3


def oracle(store: EmbeddingStore, label: str, splits: Splits) -> dict[str, Any]:
    """Scores of heads that are given the true signs, over all divisions."""
    question = pose(clip_table(store), label, task=TASKS[label], where=WHERE)
    folds = fold_rows(splits, question.clip_ids, question.patients)
    signs = question.table[list(SIGNS)].to_numpy(dtype=np.float64)  # [N, 5], every one is known
    found = {}
    for head in ("linear", "xgboost"):
        make = partial(make_head, (head,), question.task, SEED)
        predictions = cross_validate(question, lambda _: signs, make, folds)
        found[head] = {name: figure.as_dict() for name, figure in predictions.intervals().items()}
    return found


def shuffled(store: EmbeddingStore, label: str, splits: Splits, out: Path) -> dict[str, Any]:
    """The linear expert on labels that patients exchanged; each patient's clips get one label, another patient's commonest."""
    question = pose(clip_table(store), label, task=TASKS[label], where=WHERE)
    file = out / "shuffled" / f"{label}.csv"
    with atomic_path(file) as temporary:
        exchanged_labels(question, SEED).to_csv(temporary, index=False)
    folder = out / "experts" / f"{label}-shuffled"
    fit_expert(store, label, folder, task=TASKS[label], where=WHERE, heads=("linear",), recipe=RECIPE, splits=splits,
               labels_csv=file, seed=SEED)  # fmt: skip
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    found = chance(predictions_from_dict(report["predictions"]), seed=SEED)
    return {"scores": report["scores"], "chance": found if isinstance(found, str) else found.as_dict()}


def exchanged_labels(question: Question, seed: int) -> pd.DataFrame:
    """clip_id and the question's label, of all its clips."""
    people, owner = np.unique(question.patients, return_inverse=True)
    counts = np.zeros((len(people), len(question.classes)), dtype=np.int64)
    np.add.at(counts, (owner, question.truth), 1)
    drawn = np.random.default_rng(seed).permutation(counts.argmax(axis=1))  # [P]
    return pd.DataFrame({"clip_id": question.clip_ids, question.label: np.asarray(question.classes)[drawn[owner]]})


def five_signs(store: EmbeddingStore, splits: Splits, out: Path) -> dict[str, Any]:
    """The summary of one linear expert a sign, on clips of all probes, as the biomarker studies ask."""
    folder = out / "experts" / "signs-imagenet-linear"
    fit_expert(store, ",".join(SIGNS), folder, heads=("linear",), recipe=RECIPE, classes=("0", "1"), splits=splits, seed=SEED)
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {key: found[key] for key in ("scores", "floors", "labels", "data")}


def distilled(store: EmbeddingStore, splits: Splits, tuned: Path, out: Path) -> dict[str, Any]:
    """Severity's linear head with each teacher minus without, on the divisions that have fine-tuned networks."""
    few, label = first_divisions(splits, DIVISIONS), "severity"
    question = pose(clip_table(store), label, task=TASKS[label], where=WHERE)
    features = QuestionFeatures(store, question, (RECIPE,), few)
    folds = fold_rows(few, question.clip_ids, question.patients)
    unlabelled = find_unlabelled(features, few, where=WHERE)

    def make() -> Any:
        return make_head(("linear",), question.task, SEED)

    plain, _ = cross_validate_read(question, features, make, folds, ReadoutSettings(seed=SEED))
    networks = read_soft_targets(_of_these_divisions(tuned / label, out / "soft-targets" / label, few), question.classes, few)
    teachers = {"ensemble": EnsembleTeacher(seed=SEED), "network": NetworkTeacher(networks)}
    found = {}
    for name, teacher in teachers.items():
        how = Distillation(teacher, unlabelled)
        taught, _ = distil_out_of_fold(question, features, folds, make_student=make, how=how, progress=name)
        gain = distillation_gain(
            plain, taught, teacher=teacher.name, unlabelled_clips=len(unlabelled), weight=how.weight,
            temperature=how.temperature, notes=unlabelled.notes, seed=SEED,
        )  # fmt: skip
        found[name] = gain | {"taught": {score: figure.as_dict() for score, figure in taught.intervals().items()}}
    return found


def few_labels(store: EmbeddingStore, splits: Splits) -> dict[str, Any]:
    """Diagnosis from half of the training patients' labels, without and with an ensemble that speaks of the other clips."""
    few, label = first_divisions(splits, FEW_LABELS_DIVISIONS), "diagnosis"
    question = pose(clip_table(store), label, task=TASKS[label], where=WHERE)
    features = QuestionFeatures(store, question, (RECIPE,), few)
    folds = fold_rows(few, question.clip_ids, question.patients)
    return {head: _few_labels_of(head, question, features, folds) for head in ("linear", "mlp")}


def _few_labels_of(head: str, question: Question, features: QuestionFeatures, folds: list[FoldRows]) -> dict[str, Any]:
    kind: dict[str, Any] = {"task": question.task, "class_count": len(question.classes)}
    shape = (FEW_LABELS_DIVISIONS, len(question.truth), len(question.classes))
    plain, taught, hidden = np.full(shape, np.nan), np.full(shape, np.nan), []
    for fold in folds:
        people = np.unique(question.patients[fold.train])
        drawn = np.random.default_rng([SEED, fold.index]).permutation(people)[: len(people) // 2]
        away = np.isin(question.patients[fold.train], drawn)
        labelled = FoldRows(fold.index, fold.repeat, fold.train[~away], fold.test)
        rows = fold.train[away]
        more = UnlabelledRows(question.clip_ids[rows], question.patients[rows], features.final[rows])
        hidden.append(len(rows))

        def make() -> Any:
            return make_head((head,), question.task, SEED)

        def make_taught(more: UnlabelledRows = more) -> Any:
            return DistilledHead(make(), EnsembleTeacher(seed=SEED), more=more, **kind)

        for values, fresh in ((plain, make), (taught, make_taught)):
            told = out_of_fold(fresh, features.of, question.truth, question.patients, [labelled], **kind)
            values[fold.repeat, fold.test] = told[fold.repeat, fold.test]
    sides = [
        Predictions(question.task, question.classes, question.clip_ids, question.patients, question.truth, values)
        for values in (plain, taught)
    ]
    gain = distillation_gain(*sides, teacher="ensemble", unlabelled_clips=round(float(np.mean(hidden))), seed=SEED)
    return gain | {"taught": {score: figure.as_dict() for score, figure in sides[1].intervals().items()}}


def _of_these_divisions(tuned: Path, folder: Path, few: Splits) -> Path:
    """Copies of the fold files without the fingerprint, which is that of all divisions; ``trained_on`` says who was met."""
    for fold in range(len(few.folds)):
        name = f"fold-{fold:03d}.json"
        found = json.loads((tuned / name).read_text(encoding="utf-8"))
        write_json(folder / name, found | {"splits": None})
    return folder
