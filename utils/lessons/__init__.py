"""What the notebooks share: the session, exercises, spheres, figures."""

from .own_photos import (
    attempts,
    changed_files,
    enrolled,
    files_in,
    joined,
    no_network,
    parse_choices,
    read_album,
    synthetic_album,
)
from .session import open_workbench
from .sphere import DISPERSAL_LOSSES, LABEL_LOSSES, journey, lowest_nearest_cosine, make_scene, orthoplex, simplex

__all__ = [
    "DISPERSAL_LOSSES",
    "LABEL_LOSSES",
    "attempts",
    "changed_files",
    "enrolled",
    "files_in",
    "joined",
    "journey",
    "lowest_nearest_cosine",
    "make_scene",
    "no_network",
    "open_workbench",
    "orthoplex",
    "parse_choices",
    "read_album",
    "simplex",
    "synthetic_album",
]
