"""Finding a face in a gallery, and scoring what is found."""

from .evaluation import Evaluation, evaluate, held_out_photos, order_kept, per_identity
from .gallery import Gallery, Match
from .scores import RetrievalScores, chance_level, retrieval_scores
from .verification import compactness, pair_histogram, tar_at_far

__all__ = [
    "Evaluation",
    "Gallery",
    "Match",
    "RetrievalScores",
    "chance_level",
    "compactness",
    "evaluate",
    "held_out_photos",
    "order_kept",
    "pair_histogram",
    "per_identity",
    "retrieval_scores",
    "tar_at_far",
]
