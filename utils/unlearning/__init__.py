"""Unlearning methods on one signature: `unlearn(name, model, head, splits, **config) -> Unlearned`."""

# Importing a method file registers its methods; this order is the one in which tables list them.
# isort: off
from . import (  # noqa: F401
    references, labels, ascent,
    boundary, teachers, centroids, adapters,
    pruning, noise, projection,
    dispersal, strangers, scatter,
)  # fmt: skip

# isort: on
from .frame import Task, Unlearned, run_steps, unlearn
from .registry import METHODS, LogitConfig, Method, StepConfig, make_config, method, profile_options

__all__ = [
    "METHODS",
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
