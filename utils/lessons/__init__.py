"""What the notebooks share: the session, exercises, spheres, figures."""

from .own_photos import (
    attempts,
    changed_files,
    drawn_own_photos,
    enrolled,
    files_in,
    joined,
    no_network,
    parse_choices,
    read_own_photos,
    recogniser_for,
)
from .session import methods_gallery, open_session, remind_of_drawn_faces
from .sphere import journey, lowest_nearest_cosine, make_scene, orthoplex, simplex

__all__ = [
    "attempts",
    "changed_files",
    "enrolled",
    "files_in",
    "joined",
    "journey",
    "lowest_nearest_cosine",
    "make_scene",
    "methods_gallery",
    "no_network",
    "open_session",
    "orthoplex",
    "parse_choices",
    "read_own_photos",
    "recogniser_for",
    "remind_of_drawn_faces",
    "simplex",
    "drawn_own_photos",
]
