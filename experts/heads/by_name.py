"""The heads by name: small estimators on a clip's features, behind one interface.

A head is a scikit-learn estimator (``BaseEstimator``: settings in ``__init__``, cloneable) with

- ``fit(X, y, groups=None)``: X float [N, F]; y class codes int [N], soft targets float [N, K] (each row sums to 1; the classes
  weigh alike by mass), or numbers float [N]; groups say whose each row is, for a head that must look at parts of its training
  rows (an inner cross-validation);
- ``predict(X)``: codes or values [M]; ``predict_proba(X)``: [M, len(classes_)], for classes only;
- ``save(folder)`` and the class method ``load(folder)``, in formats that execute nothing when read;
- where training has a length, ``stages()`` and ``fit_staged(X, y, tested)``, from which a search finds it on inner folds.

It standardises inside itself, so that nothing about the test rows can enter. ``folder/head.json`` names the head.
"""

import functools
import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import SonokitError
from ...evaluation.scores import Task
from .boosted import BoostedHead
from .choice import ChosenHead
from .linear import LinearHead
from .ordinal import OrdinalHead
from .own import OwnHead, estimator_from_name
from .search_settings import SearchSettings
from .trusted_files import untrusted_types

HEADS = ("linear", "mlp", "xgboost")


def make_head(
    heads: tuple[Any, ...],
    task: Task,
    seed: int = 0,
    *,
    columns: Mapping[str, np.ndarray] | None = None,
    search: SearchSettings | None = None,
) -> Any:
    """A fresh head: one by itself, or a choice that is made inside the training rows.

    Args:
        heads: Names of ``HEADS``, "auto" for all of them, ``package.module:Class`` or ``package.module:Class(setting=value)``
            of a scikit-learn estimator, or such estimators themselves, not fitted.
        task: What it predicts; for an ordinal label every head is put into :class:`OrdinalHead`.
        seed: Of whatever it draws.
        columns: Recipe -> the features that it reads, int [·]; of several one is chosen. None, or one: all as they are.
        search: Settings are searched too, and the length of training is found on inner folds; None: the defaults.

    Returns:
        The head itself where there is one of it, on one recipe, and nothing to search, else a :class:`ChosenHead`.

    Raises:
        SonokitError: No such head, or one that cannot do the task.
    """
    made: dict[str, Any] = {}
    for one in _wanted(heads):
        name, head = _made(one, task, seed)
        made[_free_name(name, made)] = head
    if not made:
        raise SonokitError(f"no head (none): choose among {_choices()}")
    recipes = tuple(columns or ())
    if len(made) == 1 and len(recipes) < 2 and not (search and search.wanted):
        return next(iter(made.values()))
    return ChosenHead(made, task=task, columns=columns or None, search=search, seed=seed)


def head_name(head: Any) -> str:
    """The plain name of a fitted head: for a chosen one what was chosen, for an ordinal one what is inside."""
    if isinstance(head, ChosenHead):
        return head.chosen_
    return head_name(head.base) if isinstance(head, OrdinalHead) else head.name


def load_head(folder: Path, trusted: Collection[str] = ()) -> Any:
    """A head that ``save(folder)`` wrote.

    Args:
        folder: With its ``head.json``.
        trusted: Types (``my_module.MyEstimator``) that the file of a user's own estimator may hold besides those of numpy,
            scipy and scikit-learn that skops trusts. Name only what you know: loading imports it.

    Raises:
        SonokitError: Not a head's folder, or its file holds a type that is not trusted.
    """
    try:
        name = json.loads((folder / "head.json").read_text(encoding="utf-8"))["head"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError) as fault:
        raise SonokitError(f"{folder} holds no head that sonokit wrote (head.json): fit the expert again") from fault
    if name == "ordinal":
        return OrdinalHead.load(folder, functools.partial(load_head, trusted=trusted))
    if name == "own":
        return OwnHead.load(folder, trusted)
    if name not in HEADS:
        raise SonokitError(f"{folder}/head.json names the head {name!r}, which this sonokit does not know: update sonokit")
    return _head_class(name).load(folder)


def needs_trust(head: Any) -> tuple[str, ...]:
    """Types that must be named as ``trusted`` to load a fitted head once it is saved, sorted; empty for the heads of HEADS."""
    with tempfile.TemporaryDirectory() as folder:
        head.save(Path(folder))
        return tuple(sorted({name for file in Path(folder).rglob("own.skops") for name in untrusted_types(file)}))


def _wanted(heads: tuple[Any, ...]) -> list[Any]:
    """What is asked for, with all heads in the place of "auto", each name once."""
    spelt = [name for one in heads for name in (HEADS if isinstance(one, str) and one == "auto" else (one,))]
    return [one for k, one in enumerate(spelt) if not (isinstance(one, str) and one in spelt[:k])]


def _made(wanted: Any, task: Task, seed: int) -> tuple[str, Any]:
    """Its name and the head."""
    kind: Any = "regression" if task == "regression" else "classification"
    base: Any
    if not isinstance(wanted, str):
        base = OwnHead(wanted, kind, seed=seed)
    elif ":" in wanted:
        base = OwnHead(estimator_from_name(wanted), kind, name=wanted, seed=seed)
    elif wanted in HEADS:
        base = _head_class(wanted)(task=kind, seed=seed)
    else:
        raise SonokitError(f"no head {wanted!r}: choose among {_choices()}")
    if isinstance(base, OwnHead):
        base.require_fit_for_task()
    return base.name, OrdinalHead(base) if task == "ordinal" else base


def _free_name(name: str, taken: Collection[str]) -> str:
    """The name, numbered where another estimator of the same class has it."""
    count = 1 + sum(other == name or other.startswith(f"{name} #") for other in taken)
    return name if count == 1 else f"{name} #{count}"


def _choices() -> str:
    return f"{', '.join(HEADS)} and auto, or name a scikit-learn estimator as package.module:Class"


def _head_class(name: str) -> Any:
    if name == "mlp":
        from .mlp import MLPHead  # torch: only who asks for it waits for it

        return MLPHead
    return {"linear": LinearHead, "xgboost": BoostedHead}[name]
