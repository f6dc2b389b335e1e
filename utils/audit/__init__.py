"""What comes back: the attacks, attacker by attacker."""

# Importing a room registers its attacks; this order is the one in which tables list them.
# isort: off
from . import photos, names, gallery, weights  # noqa: F401

# isort: on
from .case import ATTACKERS, ATTACKS, HOLDINGS, TARGETS, THINGS, Subject, plain_search, sample
from .gallery import orthogonal_map
from .photos import DISTURBANCES, area_under_curve, pair_cosines
from .summary import audit, make_case, recovered
from .weights import batch_norms, innermost, inside

__all__ = [
    "ATTACKERS",
    "ATTACKS",
    "DISTURBANCES",
    "HOLDINGS",
    "Subject",
    "TARGETS",
    "THINGS",
    "area_under_curve",
    "audit",
    "batch_norms",
    "innermost",
    "inside",
    "make_case",
    "orthogonal_map",
    "pair_cosines",
    "plain_search",
    "recovered",
    "sample",
]
