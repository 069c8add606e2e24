"""The demo's page: sample clips, scores beside their floors, the map of the embeddings, nearest neighbours, confusions."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler
from sonokit.atomic import write_json, write_text
from sonokit.clips.cache import CachedClips, CacheSettings, prepare
from sonokit.clips.manifest import Manifest
from sonokit.clips.sampling import Sampling
from sonokit.experts.recipes import clip_features, clip_table
from sonokit.experts.report import SCORE_TITLES, show
from sonokit.features.search import search
from sonokit.features.store import EmbeddingStore, StoreSet, open_stores

TITLES = {
    "untrained": "untrained backbone, frozen",
    "imagenet": "ImageNet backbone, frozen",
    "pretrained": "pretrained here without labels (all clips), frozen",
    "biomarkers": "biomarker extractor, trained inside the folds",
}
SHOWN = {
    "classification": ("balanced_accuracy", "accuracy", "auroc"),
    "ordinal": ("quadratic_kappa", "balanced_accuracy", "accuracy"),
    "regression": ("mae", "r2", "spearman"),
}


@dataclass
class Study:
    """What the demo made."""

    clips: Manifest
    out: Path
    stores: dict[str, Path]
    experts: dict[str, dict[str, Path]]
    biomarkers: dict[str, Any] | None
    signs: dict[str, Path]
    commands: list[str]


def write_page(study: Study, page: Path) -> str:
    """Write the page and ``results.json`` beside it; return the tables as text."""
    reports = {task: {name: _report(folder) for name, folder in found.items()} for task, found in study.experts.items()}
    signs = {name: _report(folder) for name, folder in study.signs.items()}
    figures = {
        "experts": _without_predictions(reports),
        "biomarkers": study.biomarkers,
        "signs": _without_predictions({"signs": signs})["signs"],
    }
    tables = [_expert_table(task, found) for task, found in reports.items()]
    if study.biomarkers:
        tables.append(_biomarker_table(study.biomarkers, signs))
    cached = prepare(study.clips, study.out / "cache", CacheSettings(size=224, sampling=Sampling(frames=16)), progress=False)
    last = list(reports[next(iter(reports))].values())[-1] if reports else None
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    patients = f"{len(set(study.clips.groups()))} patients" if study.clips.patient_column else "patients unknown"
    text = environment.get_template("demo_page.html.j2").render(
        title="From clips to predictions",
        summary=f"{len(study.clips)} clips, {patients}, {len(cached.rejected)} that could not be decoded.",
        tables=tables,
        pictures={
            "clips": _sample_clips(cached),
            "map": _embedding_map(study),
            "neighbours": _neighbours(study, cached),
            "confusion": _confusion(last) if last and last["confusion"] else None,
        },
        captions={
            "clips": "Four frames of one clip a row, as the networks see them: grey, letterboxed.",
            "map": "Every clip's pretrained embedding (mean over frames), t-SNE to two dimensions; colour is the "
            "label, shape the site. Groups by shape rather than by colour would mean that the site is what was learnt.",
            "neighbours": "Each row: a clip, and the clips of other patients whose embeddings are nearest (cosine).",
            "confusion": "Share of each true class, mean over the repeats of the cross-validation; the expert is the "
            f"{TITLES[list(study.stores)[-1]]}.",
        },
        commands="\n".join(study.commands),
        files=str(study.out),
    )
    write_text(page, text)
    write_json(study.out / "results.json", figures)
    return "\n\n".join([*map(_as_text, tables), f"page: {page}", f"everything: {study.out}"])


def _expert_table(task: str, reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One row an expert, then the floors; a floor's row is the one of the first expert unless it differs by store."""
    first = next(iter(reports.values()))
    names = [name for name in SHOWN[first["task"]] if name in first["scores"]]
    rows = [
        {"cells": [TITLES[name], *(show(report["scores"].get(s)) for s in names)], "floor": False}
        for name, report in reports.items()
    ]
    for floor in first["floors"]:
        if floor["name"] == "site_left_out":
            continue
        cells = (
            [show(floor["scores"].get(s)) for s in names] if "scores" in floor else [floor["reason"], *[""] * (len(names) - 1)]
        )
        rows.append({"cells": [f"floor: {floor['title']}", *cells], "floor": True})
    for name, report in reports.items():
        left_out = next(f for f in report["floors"] if f["name"] == "site_left_out")
        if "scores" in left_out:
            cells = [show(left_out["scores"].get(s)) for s in names]
            rows.append({"cells": [f"whole sites left out: {TITLES[name]}", *cells], "floor": True})
    data = first["data"]
    note = (
        f"{data['clips']} clips of {data['patients']} patients; {data['repeats']} × {data['folds']} folds by "
        f"{data['split_unit']}, mean over the repeats, [95 % interval from resampling patients]. {'; '.join(first['notes'])}"
    )
    title = f"{task} ({', '.join(first['classes'])})" if first["classes"] else task
    return {"title": title, "columns": ["", *(SCORE_TITLES[n] for n in names)], "rows": rows, "note": note}


def _biomarker_table(extractor: dict[str, Any], plain: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The extractors' AUROC beside a linear head on the frozen backbone and the floors, all on the same splits."""
    rows = []
    for name, score in extractor["biomarkers"].items():
        own = show(score["auroc"]) if score["auroc"] else f"not measurable: {score['reason']}"
        beside = [plain[name]["scores"]["auroc"], *(_floor(plain[name], f) for f in ("random_init", "metadata"))]
        rows.append({"cells": [name, own, *map(show, beside)], "floor": False})
    rows.append({"cells": ["mean", show(extractor["macro_auroc"]), "", "", ""], "floor": False})
    return {
        "title": "Biomarkers, from clip-level labels (AUROC)",
        "columns": ["", "extractor", "frozen backbone, linear head", "floor: random weights", "floor: file metadata"],
        "rows": rows,
        "note": "Out of fold: each clip judged by models that never saw its patient; all probes. 0.5 is chance; intervals by "
        "patient. The extractor starts from the backbone that was pretrained here; the frozen backbone is the first row's "
        "above.",
    }


def _floor(report: dict[str, Any], name: str) -> dict[str, Any] | None:
    entry = next(floor for floor in report["floors"] if floor["name"] == name)
    return entry["scores"].get("auroc") if "scores" in entry else None


def _report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _as_text(table: dict[str, Any]) -> str:
    rows = [table["columns"], *(row["cells"] for row in table["rows"])]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([table["title"], *lines, table["note"]])


def _without_predictions(reports: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        t: {n: {k: v for k, v in r.items() if k != "predictions"} for n, r in found.items()} for t, found in reports.items()
    }


def _sample_clips(cached: CachedClips, most: int = 6) -> str:
    table = cached.table
    label = "diagnosis" if "diagnosis" in table else None
    chosen = table.groupby(label).head(2).index[:most] if label else table.index[:most]
    figure, axes = plt.subplots(len(chosen), 4, figsize=(8, 2.05 * len(chosen)), squeeze=False)
    for row, position in zip(axes, chosen, strict=True):
        clip = cached[int(position)]
        for axis, frame in zip(row, np.linspace(0, len(clip.frames) - 1, 4).round().astype(int), strict=True):
            axis.imshow(clip.frames[frame], cmap="gray", vmin=0, vmax=255)
            axis.set_title(f"{clip.times_s[frame]:.1f} s" if frame else _caption(table.loc[position]), fontsize=7, pad=3)
            axis.set_axis_off()
    return _png(figure)


def _embedding_map(study: Study) -> str:
    store = _bank(study.stores["pretrained"])
    table, features = clip_table(store), clip_features(store, "mean")
    points = TSNE(perplexity=min(15, max(2, len(table) // 4)), random_state=0, init="pca").fit_transform(
        StandardScaler().fit_transform(features.X)
    )  # [N, 2]
    label = "diagnosis" if "diagnosis" in table else None
    colours = table[label].fillna("unknown") if label else pd.Series("clip", index=table.index)
    sites = table["site"].astype("string").fillna("unknown")
    marks = dict(zip(sorted(set(sites)), "osD^vP*Xh<>p8d", strict=False))
    figure, axis = plt.subplots(figsize=(6, 5))
    for k, name in enumerate(sorted(set(colours))):
        for site, mark in marks.items():
            mine = ((colours == name) & (sites == site)).to_numpy()
            axis.scatter(*points[mine].T, color=f"C{k}", marker=mark, s=34, alpha=0.8, linewidths=0)
        axis.scatter([], [], color=f"C{k}", label=name)
    axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_color("#c8d2da")
    return _png(figure)


def _neighbours(study: Study, cached: CachedClips, queries: int = 4, k: int = 4) -> str:
    store = _bank(study.stores["pretrained"])
    table = cached.table.set_index("clip_id", drop=False)
    position = {clip_id: row for row, clip_id in enumerate(cached.table["clip_id"])}
    label = "diagnosis" if "diagnosis" in table else None
    chosen = table.groupby(label).head(1)["clip_id"][:queries] if label else table["clip_id"][:queries]
    figure, axes = plt.subplots(len(chosen), 1 + k, figsize=(2 * (1 + k), 2.3 * len(chosen)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, query in zip(axes, chosen, strict=True):
        found = search(store, query, k)
        shown = [(query, "asked")] + [
            (c, f"{s:.3f}") for c, s in zip(found["clip_id"], found["similarity"], strict=True) if c in position
        ]
        for axis, (clip_id, word) in zip(row, shown, strict=False):
            frames = cached[position[clip_id]].frames
            axis.imshow(frames[len(frames) // 2], cmap="gray", vmin=0, vmax=255)
            axis.set_title(f"{word}\n{_caption(table.loc[clip_id])}", fontsize=7, pad=3)
    return _png(figure)


def _confusion(report: dict[str, Any]) -> str:
    shares = np.asarray(report["confusion"], dtype=float)
    shares = shares / shares.sum(axis=1, keepdims=True)
    names = [name.replace("_", "\n") for name in report["classes"]]
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        axis.text(column, row, f"{share:.0%}", ha="center", va="center", color="white" if share > 0.5 else "#1d2733")
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    return _png(figure)


def _bank(folder: Path) -> EmbeddingStore:
    stores = open_stores(folder)
    return stores.final if isinstance(stores, StoreSet) else stores


def _caption(row: pd.Series) -> str:
    words = [str(row[name]) for name in ("diagnosis", "site") if name in row and pd.notna(row[name])]
    return ", ".join(words) or str(row["clip_id"])


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
