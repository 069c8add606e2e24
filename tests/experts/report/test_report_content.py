import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sonokit.errors import SonokitError
from sonokit.evaluation.chance import Chance, chance
from sonokit.evaluation.predictions import Predictions, predictions_from_dict
from sonokit.experts.comparison import compare_experts
from sonokit.experts.fit import fit_expert
from sonokit.experts.report import card, read_report, report_table, write_report
from sonokit.experts.report.content import kept_predictions
from sonokit.experts.report.figures import confusion_figure, scatter_figure
from sonokit.experts.report.page import page
from sonokit.experts.report.summary import summary_card, summary_page
from sonokit.features.store import EmbeddingStore


@pytest.fixture(scope="module")
def folder(store: EmbeddingStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "expert"
    return fit_expert(store, "diagnosis", out, folds=2, repeats=2, draws=50, columns=("site",), config={"seed": 0})


@pytest.fixture
def report(folder: Path) -> dict[str, Any]:
    return read_report(folder)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages whose pictures are not turned into bytes, which is what takes long."""
    monkeypatch.setattr("sonokit.experts.report.page.png", lambda _: "AAAA")


def figure(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def every_extra() -> dict[str, Any]:
    """All optional keys of a report."""
    scores = {name: figure(0.61) for name in ("balanced_accuracy", "accuracy", "auroc")}
    group = {"name": "b_lines", "features": 2, "outputs": {"covid19": {"size": figure(1.2), "direction": 0.7}}}
    return {
        "by_patient": {"patients": 30, "scores": scores},
        "search": {"trials": 24, "seconds": 5.0, "chosen": {"linear | mean_std": 4, "xgboost | mean": 2}},
        "distilled": {
            "teacher": "an ensemble",
            "unlabelled_clips": 70,
            "plain": scores,
            "gain": {name: figure(0.02) for name in scores},
        },
        "contributions": {
            "label": "diagnosis", "task": "classification", "unit": "log-odds",
            "outputs": ["covid19"], "biomarkers": 1, "groups": [group], "features": [], "cases": [],
        },
    }  # fmt: skip


def test_make_report__chance_is_that_of_the_kept_predictions(report: dict[str, Any]) -> None:
    by_hand = chance(predictions_from_dict(report["predictions"]), seed=0)
    assert isinstance(by_hand, Chance)
    assert report["chance"] == by_hand.as_dict()
    assert report["chance"]["score"] == pytest.approx(report["scores"]["balanced_accuracy"]["value"])
    assert report["chance"]["p"] == pytest.approx(1 / 1001)
    assert report["data"]["licences"] == {}


@pytest.mark.usefixtures("undrawn")
def test_table_card_page__say_every_extra(report: dict[str, Any]) -> None:
    said = report | every_extra()
    said["data"] = said["data"] | {"licences": {"CC BY 4.0": 40, "(unknown)": 20}}
    said["held_out"] = {"reason": "20 clips stay closed"}
    table, text_of_card, html = report_table(said), card(said), page(said)
    for text in (table, text_of_card, html):
        for words in (
            "its clips averaged by patient (30 patients)",
            "the same head without unlabelled clips",
            "70 unlabelled clips with soft targets of an ensemble",
            "linear | mean_std in 4, xgboost | mean in 2",
            "20 clips stay closed",
            "etter than chance? p = 0.001",
        ):
            assert words in text, words
    assert "| CC BY 4.0 | 40 |" in text_of_card
    assert "CC BY 4.0 (40), (unknown) (20)" in html
    assert "What speaks for or against covid19" in html
    assert "b_lines: covid19 1.200 [1.100, 1.300]" in table


def test_card__says_what_a_reader_must_know(report: dict[str, Any]) -> None:
    text = card(report)
    for words in ("Intended use", "no column of licences", "may differ from `prediction`", "holds the truth in 90%", "floors"):
        assert words in text


@pytest.mark.usefixtures("undrawn")
def test_page__is_self_contained_and_names_every_figure_for_narrow_screens(report: dict[str, Any]) -> None:
    text = page(report)
    assert "http" not in text
    assert "src=" not in text.replace('src="data:image/png;base64,', "")
    assert text.count('class="figure') == text.count("data-title=")
    for words in ("Operating points in figures", "right when called", "By site in figures", "minus all others", "Use"):
        assert words in text


@pytest.mark.usefixtures("undrawn")
def test_page__arrows_are_arrows(report: dict[str, Any]) -> None:
    assert "calibration error" in report_table(report)
    assert "->" not in page(report).split("<body>")[1]


def test_report__by_patient_counts_patients(report: dict[str, Any]) -> None:
    said = report | {"unit": "patient"}
    assert "30 patients at 3 sites" in report_table(said).splitlines()[0]
    assert "clips of" not in card(said).split("## How good")[0]


@pytest.mark.parametrize("most", [20_000, 10])
def test_write_report__reads_back_the_same(
    report: dict[str, Any], folder: Path, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonokit.experts.report.content._MOST_IN_JSON", most)
    found = predictions_from_dict(report["predictions"])
    part = found.select(np.arange(12))
    told = report | {"predictions": kept_predictions(found), "held_out": {"predictions": kept_predictions(part)}}
    write_report(told, tmp_path)
    assert (tmp_path / "predictions.parquet").exists() == (most == 10)
    assert ("values" in json.loads((tmp_path / "report.json").read_text())["predictions"]) == (most != 10)
    again = read_report(tmp_path)
    for wanted, got in ((found, again["predictions"]), (part, again["held_out"]["predictions"])):
        same = predictions_from_dict(got)
        assert (same.task, same.classes) == (wanted.task, wanted.classes)
        for name in ("clip_ids", "patients", "truth", "values"):
            np.testing.assert_array_equal(getattr(same, name), getattr(wanted, name))
    assert compare_experts(tmp_path, folder, draws=10)["scores"][0]["difference"]["value"] == 0
    if most == 10:
        (tmp_path / "predictions.parquet").unlink()
        with pytest.raises(SonokitError, match="copy the whole folder"):
            read_report(tmp_path)


def test_write_report__numbers_of_many_clips(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).normal(size=21_000)
    names = np.array([f"c{k}" for k in range(21_000)])
    found = Predictions("regression", (), names, names, truth, truth[None] + 1)
    report = {"task": "regression", "label": "ratio", "predictions": kept_predictions(found), "held_out": None}
    write_report(report, tmp_path)
    assert (tmp_path / "report.json").stat().st_size < 1000
    again = read_report(tmp_path)
    np.testing.assert_array_equal(predictions_from_dict(again["predictions"]).values, found.values)
    drawn = scatter_figure(again)
    assert max(len(line.get_xdata()) for line in drawn.axes[0].lines) == 2  # type: ignore[arg-type]
    assert drawn.axes[0].collections[0].get_array().sum() == 21_000  # type: ignore[union-attr]


def test_read_report__no_report_there(tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match="fit-expert wrote"):
        read_report(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]", b"null", b'{"a": 1}', b'{"task": "x", "predictions": 3}'])
def test_read_report__of_another_content(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(SonokitError, match="fit-expert wrote"):
        read_report(tmp_path)
    with pytest.raises(SonokitError, match="fit-expert wrote"):
        compare_experts(tmp_path, tmp_path)


def test_read_report__predictions_cut_short(tmp_path: Path) -> None:
    told = {"task": "regression", "classes": [], "file": "predictions.parquet"}
    (tmp_path / "report.json").write_text(json.dumps({"task": "regression", "predictions": told}))
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(SonokitError, match=r"predictions\.parquet is damaged"):
        read_report(tmp_path)


def test_read_report__a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(SonokitError, match="fit-expert wrote"):
        read_report(tmp_path)


def test_confusion_figure__whole_numbers_as_such() -> None:
    drawn = confusion_figure({"confusion": [[12.0, 3.0], [0.5, 100000.0]], "classes": ["a", "b"]})
    assert [text.get_text().split("\n")[0] for text in drawn.axes[0].texts] == ["12", "3", "0.5", "100000"]


def test_summary__each_label_and_the_mean(report: dict[str, Any]) -> None:
    labels = []
    for name, shift in (("b_lines", 0.0), ("effusion", -0.2)):
        data = {"clips": 60, "patients": 30, "licences": {"CC0": 60}, "classes": [{"name": "no", "clips": 45, "patients": 20}]}
        floors = [{"name": "metadata", "title": "file metadata only", "scores": {"auroc": figure(0.55 + shift)}}]
        scores = {"auroc": figure(0.9 + shift), "accuracy": figure(0.8)}
        labels.append({"name": name, "folder": f"labels/{name}", "data": data, "scores": scores, "floors": floors})
    floor = {"name": "metadata", "title": "file metadata only", "scores": {"auroc": figure(0.45)}}
    floor["expert_minus_floor"] = {"auroc": figure(0.35)}
    told = {
        "task": "multi_label", "label": "b_lines, effusion", "labels": labels, "floors": [floor],
        "scores": {"accuracy": figure(0.8), "auroc": figure(0.8)}, "notes": ["lobes is left out"],
    }  # fmt: skip
    table, text, html = report_table(told), summary_card(told), summary_page(told)
    for shown in (table, text, html):
        for words in (
            "b_lines",
            "effusion",
            "mean over the labels",
            "file metadata only",
            "lobes is left out",
            "0.900",
            "0.700",
        ):
            assert words in shown or words.replace("_", " ") in shown
    assert "file metadata only: +0.350 [+0.250, +0.450]" in table
    assert "| b_lines | 60 | 30 | 0.900 [0.800, 1.000] | 0.800 [0.700, 0.900] | 0.550 [0.450, 0.650] |" in text
    assert "| CC0 | 60 |" in text
    assert 'href="labels/effusion/report.html"' in html
    assert html.count('class="figure') == html.count("data-title=")
    assert "http" not in html
