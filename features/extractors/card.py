"""The card of a biomarker extractor: what it tells, how well, how it was made, and what it must not be used for."""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ...backbones.build import Backbone

_TUNED = {"none": "kept as it came", "part": "its last stages trained", "all": "trained end to end"}


def extractor_card(backbone: Backbone, values: dict[str, Any]) -> str:
    """The text of README.md.

    Args:
        backbone: The extractor's.
        values: ``extractor.json``.
    """
    data = ModelCardData(tags=["ultrasound", "biomarkers", "sonokit"])
    provenance = values["provenance"]
    seen = f"{len(provenance['training_clips'])} clips of {len(provenance['training_patients'])} patients"
    final = values["fold"] is None
    role = "final extractor" if final else f"extractor of fold {values['fold']}: scores are in ../report.json"
    tuned = _TUNED.get(values["settings"].get("tune"), "of unknown training")
    facts = [
        role,
        f"labels of clips used: {', '.join(provenance['labels'])}",
        f"trained on {seen}, listed in extractor.json; data fingerprint {values['data_fingerprint'] or 'unknown'}",
        f"backbone: {backbone.name}, {tuned}; temporal shift {backbone.temporal_shift or 'off'}",
        f"a clip gives up to {values['segments']} segments of {values['segment_frames']} frames at {values['size']} pixels; "
        f"a segment gives {values['embedding']} numbers and a probability a biomarker",
        f"a clip's logit pools its segments': {values['pooling']}",
    ]
    rows = [
        f"| {name} | {_auroc(values['scores'].get(name))} | {_positives(values['scores'].get(name))} "
        f"| {_calibration(name, values)} |"
        for name in values["biomarkers"]
    ]
    text = (
        f"---\n{data.to_yaml()}\n---\n\n# Biomarker extractor on {backbone.name}\n\n"
        + "\n".join(f"- {fact}" for fact in facts)
        + "\n\n| biomarker | AUROC out of fold (95 % interval by patient) | positives | Brier score and calibration error |\n"
        + "| --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + f"\n\n{_calibration_in_words(values)}\n\n"
        "What it must not be used for: decisions about patients (it is not a medical device); scores on the clips\n"
        "and patients that it was trained on; views, probes and diseases that are not among those clips; the place of a\n"
        "finding in a frame, of which clip labels say nothing.\n"
    )
    return str(ModelCard(text))


def _auroc(score: dict[str, Any] | None) -> str:
    if not score:
        return "not measured"
    auroc = score["auroc"]
    if auroc is None or auroc["value"] is None:
        return f"not measurable: {score['reason']}"
    if auroc["low"] is None:
        return f"{auroc['value']:.3f} ({auroc.get('reason', 'no interval')})"
    return f"{auroc['value']:.3f} ({auroc['low']:.3f} to {auroc['high']:.3f})"


def _positives(score: dict[str, Any] | None) -> str:
    if not score:
        return "not counted"
    return (
        f"{score['positive_clips']} of {score['clips']} clips, {score['positive_patients']} positive and "
        f"{score['negative_patients']} negative patients"
    )


def _calibration(name: str, values: dict[str, Any]) -> str:
    measured = values["reliability"].get(name)
    if measured and measured["before"]:
        before, after = measured["before"], measured["after"]
        if after:
            return f"{before['brier']:.3f} → {after['brier']:.3f}, {before['ece']:.3f} → {after['ece']:.3f}"
        return f"{before['brier']:.3f}, {before['ece']:.3f} before calibration; after: not measured"
    return "not measured"


def _calibration_in_words(values: dict[str, Any]) -> str:
    note, calibration = values["calibration_note"] or "unknown reasons", values["calibration"]
    if calibration is None:
        return f"The probabilities are not calibrated: {note}."
    missing = [name for name, scaling in calibration.items() if scaling is None]
    but = f" Not calibrated, for want of positives or negatives: {', '.join(missing)}." if missing else ""
    return f"The probabilities are calibrated: {note}.{but}"
