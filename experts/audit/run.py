"""An audit from a store and a label column: measure, judge, say it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ...clips.held_out_column import held_out_by_column, require_held_out
from ...clips.splits import Splits, make_splits
from ...evaluation.scores import Task
from ...features.store import EmbeddingStore, StoreSet
from ..crossval import QuestionFeatures
from ..question import Question, pose
from ..recipes import clip_features, clip_table
from .association import associate
from .columns import COLUMNS, column_values, number_groups
from .duplicates import near_duplicates
from .label_noise import label_noise
from .label_scores import LabelScores, score_label
from .leaks import BothSides, both_sides, clips_trained_on, shared_contents
from .part import some_patients, without_held_out
from .readable import Readable, read_column
from .report import AuditReport, report_content
from .rules import ALPHA, INTERVAL_LEVEL, STRONG, Measures, judge

_RECIPE = "mean_std"
_THIRDS = 3
_FITTED = (
    "nearly equal clips, and columns told by the embedding, are from a store whose extractor was fitted on labels: what it "
    "learnt to ignore is not found there"
)


def audit(
    stores: EmbeddingStore | StoreSet, label: str, *, task: Task | None = None, classes: Sequence[str] | None = None,
    where: Mapping[str, str] | None = None, labels_csv: str | Path | None = None, splits: Splits | None = None,
    patient: str | None = None, folds: int = 5, repeats: int = 3, permutations: int = 1999, draws: int = 2000,
    most_clips: int = 1000, seed: int = 0,
) -> AuditReport:  # fmt: skip
    """Look for what would make a score on a store look better than it is.

    Args:
        stores: A store, or a store set: fold k is then judged on fold k's store.
        label: A column of the store or of ``labels_csv``.
        task: None: from the label's values, see :func:`~sonokit.experts.labels.infer_task`.
        classes: Only these classes, in this order.
        where: Only clips whose column has this value.
        labels_csv: Labels keyed by clip_id or patient_id, which add to the store's and override them.
        splits: A study's division, which is audited too; None: the set's own, else folds by patient are made.
        patient: The column that says whose a clip is; None: that of the splits, else patient_id.
        folds: Where no splits are given.
        repeats: Where no splits are given.
        permutations: How often patients exchange their values for a p-value.
        draws: Resamples of the patients for the intervals.
        most_clips: Of more, the patients of about so many are drawn for what fits anything; the rest is looked at whole.
        seed: The same seed gives the same report.

    Raises:
        SonokitError: The question cannot be asked of this store, or the splits divide what its column ``split`` holds out; the
            message says why and what to do.
    """
    final = stores.final if isinstance(stores, StoreSet) else stores
    given = stores.splits if isinstance(stores, StoreSet) and splits is None else splits
    column, table = patient or (given.patient_column if given else "patient_id"), clip_table(final)
    out, said = held_out_by_column(table, column)
    named = np.union1d(out, np.asarray(given.held_out if given else (), dtype=str))
    question = pose(
        table, label, task=task, classes=classes, where=where, patient=column, held_out=named,
        fewest_patients=sum(fold.repeat == 0 for fold in given.folds) if given else folds,
        labels_csv=Path(labels_csv) if labels_csv else None,
    )  # fmt: skip
    if given:
        require_held_out(given, out, question.clip_ids)
    opened = without_held_out(replace(question, notes=(*question.notes, *said)), named)
    if final.header_on_disk.fitted_on_labels:
        opened = replace(opened, notes=(*opened.notes, _FITTED))
    part = some_patients(opened, most_clips, seed)
    sides = both_sides(given, question) if given else None
    trained_on = clips_trained_on(stores, question.clip_ids)
    used = _usable_splits(given, sides, opened, stores, folds=folds, repeats=repeats, seed=seed)
    scores = _scores(stores, part, used, trained_on[0], draws=draws, seed=seed)
    inputs = clip_features(final, _RECIPE).rows(part.clip_ids)
    codes, code_names = _codes(opened)
    measures = Measures(
        label=label,
        contents=shared_contents(question.table, question.patients),
        sides=sides,
        trained_on=trained_on,
        duplicates=near_duplicates(
            final,
            some_patients(question, most_clips, seed).clip_ids,
            _patient_of(table, column),
            by_patient_id=column == "patient_id",
        ),
        association={
            name: associate(column_values(opened.table, name), codes, opened.patients, permutations=permutations, seed=seed)
            for name in COLUMNS
        },
        readable={
            name: read_column(
                inputs, column_values(part.table, name), part.patients, permutations=permutations, draws=draws, seed=seed
            )
            for name in COLUMNS
        },
        label_read=_read_label(stores, part, inputs, trained_on[0], permutations=permutations, seed=seed),
        scores=scores,
        noise=scores if isinstance(scores, str) else label_noise(scores.predictions),
    )
    findings = tuple(judge(measures))
    content = report_content(question, part, measures, findings, code_names) | {
        "where": dict(where or {}), "settings": {
            "alpha": ALPHA, "strong_w": STRONG, "interval_level": INTERVAL_LEVEL, "permutations": permutations, "draws": draws,
            "seed": seed,
        },
        "store": {"fingerprint": final.header.fingerprint, "kind": final.header.kind, "model": final.header.model},
        "splits": {
            "given": given is not None, "fingerprint": used.fingerprint() if isinstance(used, Splits) else None
        },
    }  # fmt: skip
    return AuditReport(content["verdict"]["level"], content["verdict"]["sentence"], findings, content)


def _usable_splits(
    given: Splits | None, sides: BothSides | None, question: Question, stores: EmbeddingStore | StoreSet,
    *, folds: int, repeats: int, seed: int,
) -> Splits | str:  # fmt: skip
    """The given splits where they are sound, else folds by patient; or why there can be neither."""
    if given is not None and sides is not None and not sides.folds:
        given.check(question.clip_ids, question.patients)
        return given
    if isinstance(stores, StoreSet):
        return "the splits that the store set was made with have patients on both sides"
    table, stratify = question.table.copy(), None
    if question.task != "regression":
        stratify = question.label
        table[stratify] = np.asarray(question.classes, dtype=object)[question.truth]
    return make_splits(
        table,
        question.patients,
        label=stratify,
        patient_column=question.patient_column,
        folds=folds,
        repeats=repeats,
        seed=seed,
    )


def _scores(
    stores: EmbeddingStore | StoreSet, part: Question, splits: Splits | str, trained_on: int, *, draws: int, seed: int
) -> LabelScores | str:
    if isinstance(splits, str):
        return splits
    if trained_on:
        return "the extractor was fitted on labels of these clips: no score would be fair"
    features = QuestionFeatures(stores, part, _RECIPE, splits)
    return score_label(features, part, splits, draws=draws, level=INTERVAL_LEVEL, seed=seed)


def _read_label(
    stores: EmbeddingStore | StoreSet, part: Question, inputs: np.ndarray, trained_on: int, *, permutations: int, seed: int
) -> Readable | str:
    """The label told by the embedding, where all of it may be tested by one store."""
    if isinstance(stores, StoreSet) or trained_on:
        return "the extractor was fitted on labels of these clips"
    codes, names = _codes(part)
    values = np.asarray(names, dtype=str)[codes]
    return read_column(inputs, values, part.patients, permutations=permutations, draws=1, seed=seed)


def _codes(question: Question) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes of the label, int [N], and their names; a number is cut into thirds."""
    if question.task != "regression":
        return question.truth, question.classes
    groups = number_groups(question.truth, _THIRDS)
    names = sorted(set(groups), key=lambda name: float(question.truth[groups == name].min()))
    return np.array([names.index(group) for group in groups]), tuple(names)


def _patient_of(table: pd.DataFrame, column: str) -> dict[str, str]:
    known = table[table[column].notna()]
    return dict(zip(known["clip_id"].astype(str), known[column].astype(str), strict=True))
