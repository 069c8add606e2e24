"""Finding clips: the index of a store, filtered search, the gallery page."""

from .clips import Neighbours, direction_of, search, search_many

__all__ = ["Neighbours", "direction_of", "search", "search_many"]
