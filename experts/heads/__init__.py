"""The heads: small estimators on a clip's features, behind one interface (see :mod:`~sonokit.experts.heads.by_name`)."""

from .by_name import HEADS, head_name, load_head, make_head, needs_trust
from .choice import ChosenHead
from .search_settings import SearchSettings

__all__ = ["HEADS", "ChosenHead", "SearchSettings", "head_name", "load_head", "make_head", "needs_trust"]
