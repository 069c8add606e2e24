"""What an evaluation elsewhere comes to, in one or two sentences, by rules that are the same for every expert.

- no better than the floor: the interval of expert minus most frequent class (or mean) does not lie above 0, and does not
  reach further above it than 0.15 (for an error, half of the error at home); where it does, the patients are too few to say.
- worse: the interval of "here minus home" lies below 0.
- too few: that interval holds 0 and reaches further than 0.15 below it (an error: as above), or there are fewer than 20
  patients, or fewer than 5 of a class: resamples of so few are alike, and their intervals too narrow to say that it holds.
- better: the interval lies above 0. Holds: it holds 0. Neither is said of cases whose patients are not known (--patient
  clip_id): intervals by clip are too narrow where a patient has several clips. Without the training store both are to look
  at only, because patients here may have been trained on.
- calibrate anew: the calibration error is larger than chance gives in 95 of 100 draws, or the interval of the conformal
  coverage lies below the promise.
- looks different: the interval of the share of clips beyond the training clips lies above what is promised for clips like
  them; or more than a tenth of the features are shifted, and by more than chance gives (p below 0.05).
"""

from typing import Any, Literal

from ...evaluation.scores import LOWER_IS_BETTER
from ..report.words import SCORE_TITLES, show

Level = Literal["fine", "look", "stop", "not measured"]

_TOO_WIDE, _TOO_WIDE_ERROR = 0.15, 0.5
_SHIFTED_SHARE = 0.1
_ALPHA = 0.05
_FEWEST_PATIENTS, _FEWEST_OF_CLASS = 20, 5
_UNCHECKED = "Whether patients here were trained on was not checked: give --against."


def verdict(content: dict[str, Any]) -> dict[str, str]:
    """``level`` and ``sentence``, from the other figures of evaluation.json."""
    outcome, said = _score(content)
    also = []
    if _needs_calibration(content):
        also.append("its probabilities and sets must be calibrated anew here")
    if _looks_different(content["drift"]):
        also.append("these clips look different from the training clips")
    unchecked = outcome in ("better", "holds") and not content["settings"]["against"]
    level: Level = {"worse": "stop", "floor": "stop", "few": "not measured"}.get(outcome, "fine")  # type: ignore[assignment]
    if (also or unchecked) and level == "fine":
        level = "look"
    joined = " and ".join(also)
    sentences = [said, *([f"{joined[:1].upper()}{joined[1:]}."] if also else []), *([_UNCHECKED] if unchecked else [])]
    return {"level": level, "outcome": outcome, "sentence": " ".join(sentences)}


def _score(content: dict[str, Any]) -> tuple[str, str]:
    name = content["primary"]
    title, here, home = SCORE_TITLES[name], content["scores"][name], content["home"]["scores"].get(name)
    at = f"{title} {show(here)} here"
    by_clip = content["patient"] == "clip_id"
    patients = f"{content['data']['patients']} {'clips' if by_clip else 'patients'}"
    limit = _TOO_WIDE_ERROR * abs(home["value"]) if home and name in LOWER_IS_BETTER else _TOO_WIDE
    of_use, reach = _above_floor(content, name)
    if not of_use and reach > limit:
        return "few", f"{patients} are too few to say whether the expert is of use here: {at}."
    if not of_use:
        return "floor", f"No use is shown here: {at}, not shown to be better than {_floor_in_words(content, name)}."
    difference = content["here_minus_home"].get(name)
    if home is None or difference is None or difference["low"] is None:
        return "few", f"There is nothing to compare with at home, or too little here ({patients}): {at}."
    against = f"{show(home)} at home, here minus home {show(difference, signed=True)}"
    worse = difference["low"] > 0 if name in LOWER_IS_BETTER else difference["high"] < 0
    better = difference["high"] < 0 if name in LOWER_IS_BETTER else difference["low"] > 0
    if worse:
        return "worse", f"The expert is worse here than at home: {at}, {against}."
    wide = (difference["high"] if name in LOWER_IS_BETTER else -difference["low"]) > limit
    if wide or _too_few(content["data"]):
        return "few", f"{patients} are too few to say whether the expert holds here: {at}, {against}."
    if by_clip:
        said = f"Whether the expert holds here cannot be said of {patients} of unknown patients"
        return "few", f"{said}, because intervals by clip are too narrow: {at}, {against}."
    if better:
        return "better", f"The expert is not worse here than at home: {at}, {against}."
    return "holds", f"The expert holds here: {at}, {against}."


def _too_few(data: dict[str, Any]) -> bool:
    there = [entry["patients"] for entry in data["classes"] if entry["patients"]]
    return data["patients"] < _FEWEST_PATIENTS or min(there, default=_FEWEST_OF_CLASS) < _FEWEST_OF_CLASS


def _above_floor(content: dict[str, Any], name: str) -> tuple[bool, float]:
    """Whether the expert is shown to be better than the constant floor, and by how much it might be."""
    floor = next(entry for entry in content["floors"] if entry["name"] == "most_frequent")
    difference = floor["expert_minus_floor"].get(name)
    if difference is None or difference["low"] is None:
        return True, 0.0  # that there are too few patients is said elsewhere
    if name in LOWER_IS_BETTER:
        return bool(difference["high"] < 0), -float(difference["low"])
    return bool(difference["low"] > 0), float(difference["high"])


def _floor_in_words(content: dict[str, Any], name: str) -> str:
    floor = next(entry for entry in content["floors"] if entry["name"] == "most_frequent")
    said = "always saying the mean" if content["task"] == "regression" else "always saying the most frequent class"
    return f"{said} ({show(floor['scores'][name])})"


def _needs_calibration(content: dict[str, Any]) -> bool:
    trust = content["trust"]
    if trust is None:
        return False
    coverage = trust["conformal"]["coverage"]
    fails = coverage["high"] is not None and coverage["high"] < trust["conformal"]["promised"]
    error = content["calibration_error"]
    return bool(fails or (error is not None and error["p"] < _ALPHA))


def _looks_different(drift: dict[str, Any]) -> bool:
    beyond, features = drift.get("out_of_distribution"), drift["features"]
    if beyond is not None and "share" in beyond and (beyond["share"]["low"] or 0) > beyond["promised"]:
        return True
    p = features["exchanged"]["p"] if "exchanged" in features else features["p"]
    return bool(features["share"] > _SHIFTED_SHARE and p < _ALPHA)
