"""A report's figures in words: the lines that the printed table, the page and the card have in common."""

from typing import Any

SCORE_TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "quadratic_kappa": "quadratic kappa",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "spearman": "Spearman's ρ",
}

P_IS_NOT_PREDICTION = (
    "The class with the highest `p_` may differ from `prediction`: the head decides as if all classes were equally frequent, "
    "and the calibrated probabilities say how frequent each is among clips like these."
)
SETS_PROMISE = (
    "A conformal set or interval holds the truth in {promised:.0%} of cases on average over patients like these; that is "
    "promised neither for one patient nor for a class, a probe or a site, and nothing is promised elsewhere."
)


def headline(report: dict[str, Any]) -> str:
    """One line: what is predicted, for whom, by what."""
    data = report["data"]
    classes = f" ({', '.join(report['classes'])})" if report["classes"] else ""
    where = "".join(f", {column}={value}" for column, value in report["where"].items())
    sites = f" at {data['sites']} sites" if data["sites"] else ""
    whom = f"{data['patients']} patients" if by_patient(report) else f"{data['clips']} clips of {data['patients']} patients"
    return f"{report['label']}{classes}{where}: {whom}{sites}; {report['head']} head on {report['recipe']} of {_model(report)}"


def by_patient(report: dict[str, Any]) -> bool:
    """Whether a row is a patient: all clips together give one answer."""
    return report.get("unit", "clip") == "patient"


def how_measured(report: dict[str, Any]) -> str:
    """One line: folds, unit, interval."""
    data = report["data"]
    return (
        f"out of fold, {data['repeats']} × {data['folds']} folds by {data['split_unit']}, mean over the repeats "
        f"[{report['level']:.0%} interval over {report['draws']} resamples of the patients]"
    )


def show(figure: dict[str, Any] | None, *, signed: bool = False) -> str:
    """A figure with its interval: ``0.744 [0.620, 0.871]``, or a dash where it is not defined."""
    if figure is None or figure["value"] is None:
        return "–"
    digits = 1 if abs(figure["value"]) >= 20 else 3
    form = f"{'+' if signed else ''}.{digits}f"
    between = "" if figure.get("low") is None else f" [{figure['low']:{form}}, {figure['high']:{form}}]"
    return f"{figure['value']:{form}}{between}"


def score_names(report: dict[str, Any]) -> list[str]:
    """The scores, the primary one first."""
    return [report["primary"], *(name for name in report["scores"] if name != report["primary"])]


def score_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table of scores: ``title``, ``kind`` (expert or floor) and ``scores``, or the ``reason`` for none."""
    rows = [{"title": "this expert", "kind": "expert", "scores": report["scores"]}]
    patients = report.get("by_patient")
    if patients and "scores" in patients:
        whom = " of one label" if patients.get("left_out") else ""
        title = f"its clips averaged by patient ({patients['patients']} patients{whom})"
        rows.append({"title": title, "kind": "expert", "scores": patients["scores"]})
    if report.get("distilled"):
        plain = report["distilled"]["plain"]
        rows.append({"title": "the same head without unlabelled clips", "kind": "floor", "scores": plain})
    rows += [
        {"title": floor["title"], "kind": "floor", "scores": floor.get("scores"), "reason": floor.get("reason")}
        for floor in report["floors"]
    ]
    held_out = report.get("held_out")
    if held_out:
        counted = f" ({held_out['clips']} clips of {held_out['patients']} patients)" if "clips" in held_out else ""
        rows.append(
            {"title": f"held-out part{counted}", "kind": "expert"}
            | {"scores": held_out.get("scores"), "reason": held_out.get("reason")}
        )
    return rows


def chance_line(report: dict[str, Any]) -> str | None:
    """What exchanging the patients' labels says of the primary score; None in an older report."""
    found = report.get("chance")
    if not found:
        return None
    title = SCORE_TITLES[report["primary"]]
    if "reason" in found:
        return f"better than chance? not measured: {found['reason']}"
    count = f"all {found['exchanges']}" if found["exhaustive"] else f"{found['exchanges']}"
    several = f", {found['several_labels']} of them with several labels" if found["several_labels"] else ""
    side = "is" if found["name"] in ("mae", "rmse") else "reaches"
    return (
        f"better than chance? p = {found['p']:.2g}: with labels exchanged among {found['patients']} patients{several} "
        f"({count} exchanges) the {title} is {found['null_mean']:.3f} on average and {side} {found['null_high']:.3f} in one of "
        "forty"
    )


def conformal_line(trust: dict[str, Any]) -> str:
    """Promised and measured coverage."""
    conformal = trust["conformal"]
    return (
        f"conformal {'sets' if 'kind' in conformal else 'intervals'}: promised {conformal['promised']:.0%}, measured "
        f"{show(conformal['coverage'])}, mean size {show(conformal['size'])}"
    )


def calibration_line(trust: dict[str, Any]) -> str:
    """Brier score and calibration error, as the head gives it and calibrated."""
    calibration = trust["calibration"]
    errors = " -> ".join(f"{calibration[side]['ece']['value']:.3f}" for side in ("raw", "calibrated"))
    return (
        f"calibration ({calibration['method']}): Brier score {show(calibration['calibrated']['brier'])}, "
        f"calibrated minus raw {show(calibration['gain']['brier'], signed=True)}; calibration error {errors}, "
        f"by chance alone up to {calibration['error_by_chance']['calibrated']:.3f}"
    )


def search_line(report: dict[str, Any]) -> str | None:
    """What was tried and chosen inside the folds."""
    search = report.get("search")
    if not search:
        return None
    trials = search.get("trials")
    tried = len(trials) if isinstance(trials, list) else trials
    chosen = ", ".join(f"{name} in {folds}" for name, folds in (search.get("chosen") or {}).items())
    seconds = search.get("seconds")
    said = [f"{tried} candidates in all" if tried else "", f"at most {seconds:g} s a fit" if seconds else ""]
    budget = ", ".join(word for word in said if word)
    return f"chosen inside each training fold{f' ({budget})' if budget else ''}: {chosen or 'nothing to choose'}"


def distilled_line(report: dict[str, Any]) -> str | None:
    """Whether unlabelled clips helped."""
    told = report.get("distilled")
    if not told:
        return None
    gain = told["gain"].get(report["primary"])
    return (
        f"{told['unlabelled_clips']} unlabelled clips with soft targets of {told['teacher']}: "
        f"{SCORE_TITLES[report['primary']]} {show(gain, signed=True)} against the same head without them{_holds_zero(gain)}"
    )


def _holds_zero(figure: dict[str, Any] | None) -> str:
    if not figure or figure.get("low") is None:
        return ""
    return " (no difference shown: the interval holds 0)" if figure["low"] <= 0 <= figure["high"] else ""


def _model(report: dict[str, Any]) -> str:
    return str(report["store"]["model"])
