"""What a classifying head is fitted to: class codes, or soft targets, in one form.

Soft targets float [N, K] are the probabilities that something else gives each row; every row sums to 1. All classes are to
weigh alike, by mass: class k of total mass m_k counts N / (K m_k) times, which for codes is scikit-learn's "balanced"
weighting. So soft targets that are 0 and 1 make the head that codes make.
"""

from dataclasses import dataclass

import numpy as np

from ...errors import SonokitError


@dataclass(frozen=True)
class ClassTargets:
    """The targets of N rows.

    Attributes:
        classes: Codes of the K classes that have any mass, int64 [K].
        shares: How much of each row is of each class, float64 [N, K].
        weights: By which the classes weigh alike, float64 [K].
    """

    classes: np.ndarray
    shares: np.ndarray
    weights: np.ndarray

    def expanded(self) -> tuple[np.ndarray | slice, np.ndarray, np.ndarray]:
        """Weighted rows of one class each, for models that know no soft targets.

        Returns:
            Which rows they are of (all of them as they stand, where every row is of one class), which of the K classes each is
            of, int [·], and its share, float [·].
        """
        rows, kinds = np.nonzero(self.shares)
        shares = self.shares[rows, kinds]
        return (slice(None) if len(rows) == len(self.shares) else rows), kinds, shares


def class_targets(y: np.ndarray) -> ClassTargets:
    """The targets that ``y`` stands for: class codes int [N], or soft targets float [N, K].

    Raises:
        SonokitError: Soft targets are negative, not finite, or a row does not sum to 1.
    """
    y = np.asarray(y)
    if y.ndim == 2:
        shares = _checked(y)
        classes = np.flatnonzero(shares.sum(axis=0))
        shares = shares[:, classes]
    else:
        classes, codes = np.unique(y, return_inverse=True)
        shares = np.zeros((len(y), len(classes)))
        shares[np.arange(len(y)), codes] = 1
    return ClassTargets(classes.astype(np.int64), shares, len(y) / (len(classes) * shares.sum(axis=0)))


def hard_codes(y: np.ndarray) -> np.ndarray:
    """Class codes [N]: those given, or the most probable of soft targets [N, K]; numbers stay numbers."""
    y = np.asarray(y)
    return y.argmax(axis=1) if y.ndim == 2 else y


def _checked(y: np.ndarray) -> np.ndarray:
    shares = y.astype(np.float64)
    sound = np.isfinite(shares).all(axis=1) & (shares >= 0).all(axis=1)
    sound &= np.isclose(shares.sum(axis=1), 1, atol=1e-3)
    if not sound.all():
        row = int(np.flatnonzero(~sound)[0])
        raise SonokitError(f"soft targets, row {row}: {shares[row].tolist()} are no probabilities that sum to 1")
    return shares / shares.sum(axis=1, keepdims=True)
