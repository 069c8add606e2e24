"""From figures to "fine", "look" or "stop": every rule and threshold of an audit, the same for every store and label.

What the rules say is told in docs/audit.md; whoever changes one changes it there.
"""

from dataclasses import dataclass
from typing import Any

from ...evaluation.bootstrap import Interval
from .association import Association
from .columns import COLUMNS
from .duplicates import NearDuplicates
from .finding import Finding, Level
from .label_noise import Candidate
from .label_scores import LabelScores
from .leaks import BothSides, SharedContent
from .many_checks import holm
from .readable import Readable

ALPHA = 0.05
"""Of all permutation p-values together (Holm), and of all interval rules together (Bonferroni)."""

STRONG = 0.5
"""Cohen's w (1988: a large effect) from which a column that can be read from the embedding stops the audit. It is Cramér's V
times the root of one less than the classes, or the values where these are fewer."""

INTERVAL_RULES = 5
INTERVAL_LEVEL = 1 - ALPHA / INTERVAL_RULES


@dataclass(frozen=True)
class Measures:
    """All that an audit measured; a text instead of a figure says why there is none.

    Attributes:
        label: What the audit is about.
        contents: Contents of several clips.
        sides: Who is on both sides of the given splits; None where none were given.
        trained_on: How many clips the extractor had the labels of, and the store that says so.
        duplicates: Near-duplicates over patients.
        association: A column -> how it goes with the label.
        readable: A column -> how well the embedding tells it.
        label_read: How well the embedding tells the label, by exchanged patients, as it tells a column.
        scores: How well the label is predicted.
        noise: Candidates for wrong labels.
    """

    label: str
    contents: list[SharedContent]
    sides: BothSides | None
    trained_on: tuple[int, str]
    duplicates: NearDuplicates
    association: dict[str, Association | str]
    readable: dict[str, Readable | str]
    label_read: Readable | str
    scores: LabelScores | str
    noise: list[Candidate] | str


def judge(measures: Measures) -> list[Finding]:
    """Every check in the order in which it is read."""
    raw = {f"{name} and label": found.p for name, found in measures.association.items() if isinstance(found, Association)}
    raw |= {f"{name} from embedding": found.p for name, found in measures.readable.items() if isinstance(found, Readable)}
    if isinstance(measures.label_read, Readable):
        raw["label from embedding"] = measures.label_read.p
    corrected = holm(raw)
    columns = [
        judge_column(name, measures.label, measures.association[name], measures.readable[name], corrected) for name in COLUMNS
    ]
    return [
        judge_contents(measures.contents), judge_sides(measures.sides), judge_extractor(*measures.trained_on),
        judge_duplicates(measures.duplicates), *columns, *_judge_scores(measures.scores, corrected.get("label from embedding")),
        judge_noise(measures.noise, measures.scores),
    ]  # fmt: skip


def judge_contents(contents: list[SharedContent]) -> Finding:
    """Stop for one content of several patients, look for several names of one patient's clip."""
    several = [shared for shared in contents if len(shared.patients) > 1]
    rows = tuple({"clips": ", ".join(one.clip_ids), "patients": ", ".join(one.patients)} for one in contents)
    figures = {"contents": len(contents), "of_several_patients": len(several)}
    title = "one film under several names"
    if several:
        reason = f"{len(several)} contents belong to clips of more than one patient: they are on both sides of any split"
        return Finding("same_content", title, "stop", reason, figures, rows)
    if contents:
        reason = f"{len(contents)} contents have more than one clip_id, each of one patient: they count more than once"
        return Finding("same_content", title, "look", reason, figures, rows)
    return Finding("same_content", title, "fine", "every clip has a content of its own", figures)


def judge_sides(sides: BothSides | None) -> Finding:
    """Stop for whatever is on both sides of the given splits."""
    title = "patients on both sides of the splits"
    if sides is None:
        reason = "no splits were given; the folds of this audit are by patient"
        return Finding("splits", title, "not measured", reason)
    figures = {"patients": len(sides.patients), "contents": len(sides.contents), "folds": sides.folds}
    if not sides.folds:
        return Finding("splits", title, "fine", "no patient and no content is on both sides", figures)
    reason = f"{len(sides.patients)} patients and {len(sides.contents)} contents are on both sides, in {sides.folds} folds"
    rows = tuple({"on both sides": name} for name in (*sides.patients, *sides.contents))
    return Finding("splits", title, "stop", reason, figures, rows)


def judge_extractor(clips: int, store: str) -> Finding:
    """Stop for clips whose labels, of whatever kind, the extractor was fitted on."""
    title, figures = "what the extractor knew", {"clips": clips}
    if clips:
        reason = f"{clips} of these clips are tested by an extractor that was fitted on labels of them ({store})"
        return Finding("extractor", title, "stop", reason, figures)
    return Finding("extractor", title, "fine", "no clip is tested by an extractor that had its labels", figures)


def judge_duplicates(found: NearDuplicates) -> Finding:
    """Look at every pair."""
    title = "nearly equal clips of different patients"
    if found.threshold is None or found.median is None:
        return Finding("near_duplicates", title, "not measured", "fewer than ten clips have a neighbour of another patient")
    figures = {
        "pairs": len(found.pairs), "threshold": found.threshold, "median_similarity": found.median, "clips": found.clips
    }  # fmt: skip
    where = f"above a similarity of {found.threshold:.4f} (half of the clips have none above {found.median:.4f})"
    if not found.pairs:
        return Finding("near_duplicates", title, "fine", f"no pair {where}", figures)
    rows = tuple(
        {
            "similarity": f"{pair.similarity:.4f}", "clip": pair.first, "patient": pair.first_patient,
            "other clip": pair.second, "other patient": pair.second_patient,
        }
        for pair in found.pairs
    )  # fmt: skip
    count = f"{len(found.pairs)} pair{'s' if len(found.pairs) > 1 else ''}"
    return Finding("near_duplicates", title, "look", f"{count} {where}: one person twice?", figures, rows)


def judge_column(name: str, label: str, tells: Association | str, read: Readable | str, corrected: dict[str, float]) -> Finding:
    """Stop for a column that tells the label strongly and that the embedding tells, look for one that tells it at all."""
    title = f"{COLUMNS[name]} and {label}"
    if isinstance(tells, str):
        return Finding(name, title, "not measured", tells)
    p = corrected[f"{name} and label"]
    figures: dict[str, Any] = {
        "cohens_w": tells.w,
        "cramers_v": tells.v, "cramers_v_uncorrected": tells.plain_v, "chance_v_uncorrected": tells.chance_v, "p": tells.p,
        "p_corrected": p, "patients": tells.patients, "values": len(tells.values),
    }  # fmt: skip
    known = isinstance(read, str) or corrected[f"{name} from embedding"] < ALPHA
    if isinstance(read, Readable):
        figures |= {
            "read_balanced_accuracy": read.balanced_accuracy.as_dict(), "read_chance": read.chance, "read_p": read.p,
            "read_p_corrected": corrected[f"{name} from embedding"], "read_values": list(read.values),
            "read_patients": read.patients,
        }  # fmt: skip
    level = _column_level(tells.w, p, known)
    association = f"it {'tells' if p < ALPHA else 'is not shown to tell'} {label}: w = {tells.w:.2f}, corrected p = {_p(p)}"
    return Finding(name, title, level, f"{association}; {_reading(read, known)}", figures)


def judge_label(scores: LabelScores, p: float | None = None) -> Finding:
    """Look where the embedding is not shown to predict the label: by the corrected ``p``, without one by the interval."""
    value = scores.scores[scores.primary]
    clear = _above_zero(scores.over_most_frequent) if p is None else p < ALPHA
    reason = (
        f"{_words(scores.primary)} {_shown(value)}, {_shown(scores.over_most_frequent, signed=True)} over a constant guess"
        f"{'' if p is None else f', corrected p = {_p(p)}'}"
    )
    return Finding(
        "label", "the label from the embedding", "fine" if clear else "look",
        reason if clear else f"{reason}: nothing is shown to be learnt, and no absence of a shortcut shown either",
        {"score": value.as_dict(), "over_most_frequent": scores.over_most_frequent.as_dict(), "p_corrected": p},
    )  # fmt: skip


def judge_metadata(scores: LabelScores) -> Finding:
    """Stop where the file without a picture predicts the label, and the picture is not shown to do better."""
    file, gain = scores.metadata_over_most_frequent, scores.over_metadata
    levels: dict[tuple[bool, bool], Level] = {(True, False): "stop", (True, True): "look"}
    level = levels.get((_above_zero(file), _above_zero(gain)), "fine")
    predicts = "predict" if _above_zero(file) else "are not shown to predict"
    reason = (
        f"container and frame rate {predicts} it ({_shown(file, signed=True)} over a constant guess); "
        f"the embedding minus that: {_shown(gain, signed=True)}"
    )
    figures = {"metadata_over_most_frequent": file.as_dict(), "embedding_over_metadata": gain.as_dict()}
    return Finding("metadata", "the label from the file alone", level, reason, figures)


def judge_random_init(scores: LabelScores) -> Finding:
    """Look where a network that has learnt nothing is not shown to be worse."""
    title, gain = "the label from a random network", scores.over_random_init
    if isinstance(gain, str):
        return Finding("random_init", title, "not measured", gain)
    level: Level = "fine" if _above_zero(gain) else "look"
    not_shown = "" if level == "fine" else ": what the extractor learnt is not shown to help"
    reason = f"the embedding minus the same network with random weights: {_shown(gain, signed=True)}{not_shown}"
    return Finding("random_init", title, level, reason, {"embedding_over_random_init": gain.as_dict()})


def judge_sites_left_out(scores: LabelScores) -> Finding:
    """Stop for a score that falls, on unknown sites, to where it is not shown to beat the most frequent class."""
    title, gap, rest = "whole sites left out", scores.over_sites_left_out, scores.sites_left_out_over_most_frequent
    if isinstance(gap, str) or isinstance(rest, str):
        return Finding("sites_left_out", title, "not measured", gap if isinstance(gap, str) else str(rest))
    falls, holds = _above_zero(gap), _above_zero(rest)
    gone = _above_zero(scores.over_most_frequent) and not holds
    level: Level = "stop" if falls and gone else "look" if falls or gone else "fine"
    reason = (
        f"known sites minus unknown ones: {_shown(gap, signed=True)}; on unknown ones {_shown(rest, signed=True)} over a "
        "constant guess"
    )
    figures = {"gap": gap.as_dict(), "left_out_over_most_frequent": rest.as_dict()}
    return Finding("sites_left_out", title, level, reason, figures)


def judge_within_sites(scores: LabelScores) -> Finding:
    """Look where clips of one site are not shown to be ranked better than by guessing, though clips of all sites are."""
    title, found = "ranking within a site", scores.ranking
    if isinstance(found, str):
        return Finding("within_sites", title, "not measured", found)
    lost = found.everywhere.low > 0.5 and not found.within.low > 0.5
    reason = (
        f"of pairs of one site {_shown(found.within)} are ranked rightly, of all pairs {_shown(found.everywhere)} "
        f"(guessing: 0.5; {found.pairs} pairs at {found.sites} sites)"
    )
    figures = {
        "within": found.within.as_dict(), "everywhere": found.everywhere.as_dict(), "pairs": found.pairs, "sites": found.sites
    }  # fmt: skip
    return Finding("within_sites", title, "look" if lost else "fine", reason, figures)


def judge_noise(found: list[Candidate] | str, scores: LabelScores | str) -> Finding:
    """Look at every candidate."""
    title = "labels that may be wrong"
    if isinstance(found, str) or isinstance(scores, str):
        return Finding("label_noise", title, "not measured", found if isinstance(found, str) else str(scores))
    if not found:
        return Finding("label_noise", title, "fine", "no label is contradicted by the out-of-fold probabilities", {"clips": 0})
    rows = tuple(
        {
            "clip": one.clip_id, "patient": one.patient, "label": one.given, "predicted": one.predicted,
            "probability of the label": f"{one.probability:.3f}",
        }
        for one in found
    )  # fmt: skip
    share = len(found) / len(scores.predictions.truth)
    accuracy = scores.scores["accuracy"].value
    reason = (
        f"{len(found)} clips ({share:.0%}) are candidates, mislabelled or just hard (the head itself is right for "
        f"{accuracy:.0%}); none was removed"
    )
    return Finding("label_noise", title, "look", reason, {"clips": len(found), "share": share, "accuracy": accuracy}, rows)


def _judge_scores(scores: LabelScores | str, p: float | None) -> list[Finding]:
    if not isinstance(scores, str):
        rules = (judge_metadata, judge_random_init, judge_sites_left_out, judge_within_sites)
        return [judge_label(scores, p), *(rule(scores) for rule in rules)]
    titles = {
        "label": "the label from the embedding", "metadata": "the label from the file alone",
        "random_init": "the label from a random network", "sites_left_out": "whole sites left out",
        "within_sites": "ranking within a site",
    }  # fmt: skip
    return [Finding(name, title, "not measured", scores) for name, title in titles.items()]


def _column_level(w: float, p: float, known_to_embedding: bool) -> Level:
    if p >= ALPHA:
        return "look" if w >= STRONG else "fine"  # strong, on too few patients to tell it from chance
    return "stop" if w >= STRONG and known_to_embedding else "look"


def _reading(read: Readable | str, known: bool) -> str:
    if isinstance(read, str):
        return f"whether the embedding tells it is not known ({read})"
    verb = "tells" if known else "is not shown to tell"
    return f"the embedding {verb} it: balanced accuracy {_shown(read.balanced_accuracy)}, chance {read.chance:.2f}"


def _above_zero(found: Interval) -> bool:
    return found.low > 0


def _shown(found: Interval, *, signed: bool = False) -> str:
    form = "+.2f" if signed else ".2f"
    between = "" if found.reason else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.value:{form}}{between}"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"


def _words(score: str) -> str:
    return score.replace("_", " ")
