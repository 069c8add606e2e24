"""Several p-values asked at once: Holm's correction."""

from collections.abc import Mapping


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Corrected p-values under the same names (Holm 1979): below alpha, all together err with probability alpha at most."""
    corrected, largest = {}, 0.0
    ordered = sorted(p_values.items(), key=lambda item: (item[1], item[0]))
    for rank, (name, p) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p))
        corrected[name] = largest
    return corrected
