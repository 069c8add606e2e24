"""Labels that the out-of-fold probabilities contradict: candidates to look at, never removed.

Confident learning (Northcutt et al. 2021) as cleanlab has it: a clip is a candidate where another class is predicted with more
confidence than clips of that class usually get, as many as the joint distribution of given and predicted labels suggests. It
cannot tell a wrong label from a hard clip.
"""

from dataclasses import dataclass

import numpy as np

from ...errors import SonokitError
from ...evaluation.predictions import Predictions


@dataclass(frozen=True)
class Candidate:
    """A clip whose label may be wrong.

    Attributes:
        clip_id, patient: Which.
        given: Its label.
        predicted: The class that is most probable for it.
        probability: Of the given label, out of fold, mean over the repeats.
    """

    clip_id: str
    patient: str
    given: str
    predicted: str
    probability: float


def label_noise(predictions: Predictions) -> list[Candidate] | str:
    """Candidates, the least probable label first; or why there are none to name.

    Raises:
        SonokitError: cleanlab is not installed.
    """
    if predictions.task == "regression":
        return "the label is a number"
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as fault:
        raise SonokitError("candidates for wrong labels need cleanlab: pip install cleanlab") from fault
    means = predictions.values.mean(axis=0)  # [N, K]
    there, codes = np.unique(predictions.truth, return_inverse=True)
    if len(there) < 2:
        return "all clips are of one class"
    shares = np.clip(means[:, there], 1e-7, None)
    shares = shares / shares.sum(axis=1, keepdims=True)
    suspects = find_label_issues(codes, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [
        Candidate(
            clip_id=str(predictions.clip_ids[row]),
            patient=str(predictions.patients[row]),
            given=predictions.classes[predictions.truth[row]],
            predicted=predictions.classes[int(means[row].argmax())],
            probability=float(means[row, predictions.truth[row]]),
        )
        for row in suspects
    ]
