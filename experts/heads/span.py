"""More features than rows: what the training rows span is all that they can teach.

N rows of F > N features lie in a space of at most N dimensions. A model whose penalty is the same in every direction (ridge,
L2) has no weight outside that space, so it can be fitted to N coordinates instead of F and its weights turned back: the same
model for a fraction of the work.
"""

import numpy as np
import scipy.linalg


def spanned(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Coordinates of rows in the space that they span.

    Args:
        rows: Standardised, float64 [N, F].

    Returns:
        The coordinates float64 [N, D], in falling order of what they explain, and the orthonormal basis [F, D], so that
        ``rows = coordinates @ basis.T``; None where there are no more features than rows.
    """
    if rows.shape[1] <= rows.shape[0]:
        return None
    left, sizes, right = scipy.linalg.svd(rows, full_matrices=False, check_finite=False)
    keep = sizes > max(rows.shape) * np.finfo(np.float64).eps * max(sizes[0], np.finfo(np.float64).tiny)
    keep[0] = True  # rows that are all the same: one coordinate, of zeros
    return left[:, keep] * sizes[keep], right[keep].T
