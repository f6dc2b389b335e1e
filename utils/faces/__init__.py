"""From photos to named crops, and who plays which part."""

from .alignment import AlignedFace, Aligner, canonical_landmarks, similarity_transform
from .datasets import load_faces
from .splits import make_splits

__all__ = ["AlignedFace", "Aligner", "canonical_landmarks", "load_faces", "make_splits", "similarity_transform"]
