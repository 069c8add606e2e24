"""Why an expert says what it says of a clip, a few words a clip: what ``predict --why`` adds to its table."""

import numpy as np
import pandas as pd

from ...errors import SonokitError
from ..folder import Expert
from ..heads import head_name
from ..heads.contributions import contributions
from ..recipes import ClipFeatures
from .feature_groups import EMBEDDING, centred, group_of

_CLIPS_AT_ONCE = 4096


def case_contributions(expert: Expert, features: ClipFeatures, count: int = 3) -> pd.DataFrame:
    """The largest contributions to each clip's answer.

    Args:
        expert: Fitted; its head must be linear or boosted trees.
        features: Of C clips, made by the expert's recipe.
        count: How many columns.

    Returns:
        C rows in the clips' order with ``why_1`` … ``why_<count>``, such as ``maximum of b_lines +1.23``: log-odds for the
        predicted class against the mean of all classes; with two classes for the second of them; of ordered classes towards a
        higher level; of a number in its units. The dimensions of an embedding are summed. Empty where there are fewer.

    Raises:
        SonokitError: The head has no exact contributions, or ``count`` is not positive.
    """
    if count < 1:
        raise SonokitError(f"--why {count}: ask for one reason or more")
    names = [EMBEDDING if group_of(name) == EMBEDDING else name for name in features.names]
    groups = list(dict.fromkeys(names))
    member = np.zeros((len(names) + 1, len(groups)))
    member[np.arange(len(names)), [groups.index(name) for name in names]] = 1  # the constant belongs to none
    told: list[list[str]] = []
    for start in range(0, len(features.X), _CLIPS_AT_ONCE):
        told += _in_words(expert, features.X[start : start + _CLIPS_AT_ONCE], member, groups, count)
    return pd.DataFrame(told, columns=[f"why_{k + 1}" for k in range(count)], dtype=object)


def _in_words(expert: Expert, X: np.ndarray, member: np.ndarray, groups: list[str], count: int) -> list[list[str]]:
    found = contributions(expert.head, X)
    if found is None:
        raise SonokitError(
            f"--why: the head {head_name(expert.head)!r} has no exact contributions; "
            "fit the expert with --head linear or xgboost"
        )
    parts = centred(found, expert.task) @ member  # [n, K, G]
    chosen = _towards_the_answer(expert, X, parts)  # [n, G]
    order = np.argsort(-np.abs(chosen), axis=1, kind="stable")[:, :count]
    blanks = [""] * max(0, count - len(groups))
    return [[f"{groups[g]} {row[g]:+.2f}" for g in best] + blanks for row, best in zip(chosen, order, strict=True)]


def _towards_the_answer(expert: Expert, X: np.ndarray, parts: np.ndarray) -> np.ndarray:
    if parts.shape[1] == 1:
        return parts[:, 0]
    if expert.task == "ordinal":
        return parts.mean(axis=1)
    known = np.asarray(expert.head.classes_, dtype=np.int64)
    answer = expert.values(X)[:, known].argmax(axis=1)  # among the classes that the head knows, whose order parts have
    return parts[np.arange(len(X)), answer]
