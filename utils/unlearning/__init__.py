"""Unlearning methods on one signature: `unlearn(name, model, head, splits, **config) -> Unlearned`."""

from . import ascent, dispersal, labels, references  # noqa: F401  (importing a method file registers its methods)
from .frame import (
    METHODS,
    Method,
    StepConfig,
    Task,
    Unlearned,
    make_config,
    method,
    profile_options,
    run_steps,
    unlearn,
)

__all__ = [
    "METHODS",
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
