"""Unlearning methods on one signature: `unlearn(name, model, head, splits, **config) -> Unlearned`."""

# Importing a method file registers its methods; this order is the one in which tables list them.
# isort: off
from . import references, labels, ascent, dispersal  # noqa: F401
# isort: on
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
