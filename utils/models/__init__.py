"""From a crop to a point on the sphere."""

from .augmentation import augment, greyscale
from .backbones import card_of, make_backbone
from .embedding import embed
from .finetuning import FinetuneConfig, cost_table, finetune, step_costs
from .pretrained import who_was_trained_on
from .training import load_or_train

__all__ = [
    "FinetuneConfig",
    "augment",
    "card_of",
    "cost_table",
    "embed",
    "finetune",
    "greyscale",
    "load_or_train",
    "make_backbone",
    "step_costs",
    "who_was_trained_on",
]
