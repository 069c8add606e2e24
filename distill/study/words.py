"""A report's figures in words and as a table of text: what the printed lines, the page and the card have in common."""

from typing import Any

SCORE_TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "macro_auroc": "mean AUROC",
}
INTENDED_USE = (
    "Research on ultrasound clips like those below. It is not a medical device, has not been tried prospectively, and must not "
    "decide on a patient."
)
HOW_READ = "A clip's probabilities are the mean of its frames', for teacher and students alike."


def headline(report: dict[str, Any]) -> str:
    """One line: what is told apart, by what, from whose clips."""
    sizes, data = report["sizes"], report["data"]
    told = f"{report['label']} ({', '.join(report['classes'])})" if report["task"] == "classification" else report["label"]
    return (
        f"{told}: {sizes['student']['name']}, {number(sizes['student']['parameters'])} parameters, taught by "
        f"{' and '.join(teacher_words(report))} on {data['clips']} clips of {data['patients']} patients"
    )


def teacher_words(report: dict[str, Any]) -> list[str]:
    """Each teacher in a few words."""
    members = report["settings"]["members"]
    words = []
    for one in report["teachers"]:
        here = " trained here once a fold" if report["measured"] else " trained here"
        trained = here if one["kind"] == "backbone" else ""
        count = f"{members} × " if one["kind"] == "backbone" and members > 1 else ""
        words.append(f"{count}{one['name']} ({one['kind']}{trained})")
    return words


def how_measured(report: dict[str, Any]) -> str:
    """One line: folds, unit, interval; or that nothing was measured."""
    data = report["data"]
    if not report["measured"]:
        return str(report["reason"])
    return (
        f"out of fold, {data['repeats']} × {data['folds']} folds by {data['split_unit']} over {data['scored_clips']} clips of "
        f"{data['scored_patients']} patients, mean over the repeats "
        f"[{report['level']:.0%} interval over {report['draws']} resamples of the patients]"
    )


def score_names(report: dict[str, Any]) -> list[str]:
    """The scores, the primary one first."""
    names = list(report["rows"][0]["scores"]) if report["rows"] else []
    return [name for name in names if name == report["primary"]] + [name for name in names if name != report["primary"]]


def score_title(name: str) -> str:
    """A score's name for a reader."""
    return SCORE_TITLES.get(name, name.replace("auroc ", "AUROC ").replace("_", " "))


def show(figure: dict[str, Any] | None, *, signed: bool = False) -> str:
    """A figure with its interval: ``0.744 [0.620, 0.871]``, or a dash where it is not defined."""
    if figure is None or figure["value"] is None:
        return "–"
    form = f"{'+' if signed else ''}.3f"
    between = "" if figure.get("low") is None else f" [{figure['low']:{form}}, {figure['high']:{form}}]"
    return f"{figure['value']:{form}}{between}"


def size_rows(report: dict[str, Any]) -> list[dict[str, str]]:
    """Student and teacher: parameters, bytes, multiply-adds, latency, memory."""
    rows = []
    for who in ("student", "teacher"):
        size, speed = report["sizes"].get(who), report["speed"].get(who)
        if size is None:
            continue
        rows.append(
            {
                "who": who if who == "student" or size["networks"] == 1 else f"teacher, {size['networks']} networks",
                "parameters": number(size["parameters"]),
                "fp32": number(size["bytes_fp32"], "B"),
                "int8": number(size["bytes_int8"], "B"),
                "multiply-adds": f"{number(size['multiply_adds'])} at {size['size']}²",
                "latency": f"{speed['latency_ms']:.2f} ms",
                "memory": number(speed["peak_bytes"], "B"),
            }
        )
    return rows


def smaller(report: dict[str, Any]) -> str | None:
    """How many times fewer parameters the student has than its teacher."""
    sizes = report["sizes"]
    if "teacher" not in sizes:
        return None
    ratio = sizes["teacher"]["parameters"] / sizes["student"]["parameters"]
    return f"The student has {ratio:.0f} times fewer parameters than its teacher." if ratio >= 2 else None


def fault_lines(report: dict[str, Any]) -> list[str]:
    """What was wrong with the experts' file, a line a kind."""
    known = report["knowledge"]
    if known is None:
        return []
    faults = known["faults"]
    return [
        f"{kind.replace('_', ' ')}: {count}"
        + (f" (such as {', '.join(faults['examples'][kind])})" if faults["examples"].get(kind) else "")
        for kind, count in faults["counts"].items()
    ]


def number(value: float, unit: str = "") -> str:
    """``48.9 k``, ``11.2 M``."""
    for limit, ending in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {ending}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def report_table(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    lines = [headline(report), how_measured(report), ""]
    if report["measured"]:
        names = score_names(report)
        table = [["", *map(score_title, names)]]
        table += [[row["title"], *(show(row["scores"].get(name)) for name in names)] for row in report["rows"]]
        lines += [*_aligned(table), "", f"differences in {score_title(report['primary'])}, on the same patients:"]
        lines += [f"  {row['title']}: {show(row['scores'][report['primary']], signed=True)}" for row in report["differences"]]
        lines.append("")
    sizes = size_rows(report)
    lines += _aligned([list(sizes[0]), *(list(row.values()) for row in sizes)])
    told = [*fault_lines(report), *report["notes"]]
    return "\n".join([*lines, "", *(f"note: {line}" for line in told)]).rstrip()


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
