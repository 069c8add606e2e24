"""The heads by name: small estimators on a clip's features, behind one interface.

A head is a scikit-learn estimator (``BaseEstimator``: settings in ``__init__``, cloneable) with

- ``fit(X, y, groups=None)``: X float [N, F]; y class codes int [N], or float [N]; groups say whose each row is, for a head that
  must look at parts of its training rows (an inner cross-validation);
- ``predict(X)``: codes or values [M]; ``predict_proba(X)``: [M, len(classes_)], for classes only;
- ``save(folder)`` and the class method ``load(folder)``, in formats that execute nothing when read.

It standardises inside itself, so that nothing about the test rows can enter. ``folder/head.json`` names the head.
"""

import json
from pathlib import Path
from typing import Any

from ...errors import SonokitError
from ...evaluation.scores import Task
from .auto import AutoHead
from .boosted import BoostedHead
from .linear import LinearHead
from .ordinal import OrdinalHead

HEADS = ("linear", "mlp", "xgboost")


def make_head(names: tuple[str, ...], task: Task, seed: int = 0) -> Any:
    """A fresh head.

    Args:
        names: One of ``HEADS``; several, of which one is chosen on inner folds of the training rows; ``("auto",)`` for all.
        task: What it predicts; for an ordinal label the head is put into :class:`OrdinalHead`.
        seed: Of whatever it draws.

    Raises:
        SonokitError: No such head.
    """
    wanted = HEADS if "auto" in names else names
    unknown = [name for name in wanted if name not in HEADS]
    if unknown or not wanted:
        raise SonokitError(f"no head {(unknown or ['(none)'])[0]!r}: choose among {', '.join(HEADS)} and auto")
    heads = {name: _one_head(name, task, seed) for name in wanted}
    return heads[wanted[0]] if len(heads) == 1 else AutoHead(heads, task=task, seed=seed)


def head_name(head: Any) -> str:
    """The plain name of a fitted head: for a chosen one what was chosen, for an ordinal one what is inside."""
    if isinstance(head, AutoHead):
        return head.chosen_
    return head_name(head.base) if isinstance(head, OrdinalHead) else head.name


def load_head(folder: Path) -> Any:
    """A head that ``save(folder)`` wrote.

    Raises:
        SonokitError: Not a head's folder, or its file holds a type that is not trusted.
    """
    try:
        name = json.loads((folder / "head.json").read_text(encoding="utf-8"))["head"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError) as fault:
        raise SonokitError(f"{folder} holds no head that sonokit wrote (head.json): fit the expert again") from fault
    if name == "ordinal":
        return OrdinalHead.load(folder, load_head)
    if name not in HEADS:
        raise SonokitError(f"{folder}/head.json names the head {name!r}, which this sonokit does not know: update sonokit")
    return _head_class(name).load(folder)


def _one_head(name: str, task: Task, seed: int) -> Any:
    base = _head_class(name)(task="regression" if task == "regression" else "classification", seed=seed)
    return OrdinalHead(base) if task == "ordinal" else base


def _head_class(name: str) -> Any:
    if name == "mlp":
        from .mlp import MLPHead  # torch: only who asks for it waits for it

        return MLPHead
    return {"linear": LinearHead, "xgboost": BoostedHead}[name]
