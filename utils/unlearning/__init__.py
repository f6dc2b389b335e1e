"""Unlearning methods on one signature: `unlearn(name, model, head, splits, **config) -> Unlearned`."""

# Importing a method file registers its methods; this order is the one in which tables list them.
# isort: off
from .methods import (  # noqa: F401
    references, labels, ascent,
    boundary, teachers, centroids, adapters,
    pruning, noise, projection,
    dispersal, blends, scatter, block_list,
)  # fmt: skip

# isort: on
from .dispersion import DISPERSIONS, dispersion_loss, hardest_cosine, mean_cosine, pair_cosines
from .loop import Task, Unlearned, run_steps, unlearn
from .methods.blends import blend
from .methods.scatter import HARDENED
from .registry import METHODS, RECOMMENDED, LogitConfig, Method, StepConfig, make_config, method, profile_options

__all__ = [
    "DISPERSIONS",
    "HARDENED",
    "blend",
    "dispersion_loss",
    "hardest_cosine",
    "mean_cosine",
    "pair_cosines",
    "METHODS",
    "RECOMMENDED",
    "LogitConfig",
    "Method",
    "StepConfig",
    "Task",
    "Unlearned",
    "make_config",
    "method",
    "profile_options",
    "run_steps",
    "unlearn",
]
