"""The small package behind the face identity unlearning course."""

# torch goes first: with faiss imported before it, forked workers that search can hang (docs/environment.md).
import torch  # noqa: F401
