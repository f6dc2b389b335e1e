"""Portraits of people who do not exist, drawn from numbers."""

from .latents import NUISANCE, neutral_nuisance, sample_identities
from .renderer import render

__all__ = ["NUISANCE", "neutral_nuisance", "render", "sample_identities"]
