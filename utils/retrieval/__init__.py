"""Finding a face in a gallery, and scoring what is found."""

from .evaluation import evaluate, examine, held_out_photos
from .verification import compactness

__all__ = ["compactness", "evaluate", "examine", "held_out_photos"]
