"""Finding a face in a gallery, and scoring what is found."""

from .evaluation import evaluate, held_out_photos
from .verification import compactness

__all__ = ["compactness", "evaluate", "evaluate", "held_out_photos"]
