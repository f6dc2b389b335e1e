"""The list of unlearning methods: what each is called, what it needs, where it comes from, how it is set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from ..faces.splits import Splits
from ..settings import PROFILES, CourseError, one_of, plain

FULL = {"steps": 300}  # what most methods' full profile changes
LEVELS = ("frozen", "train")
RECOMMENDED = "dispersion_blends"  # the method in the weights that the course recommends
TRAINABLE = ("backbone", "both", "head")


@dataclass(frozen=True)
class StepConfig:
    """The knobs that all step-wise methods share; one step sees P x K forget photos and some retained ones.

    With `check_every` above 0 the run stops early: every so many steps the dev-forget people, who stand in for those
    who stay, are searched for on training photos, and the run ends at the last check at which their mAP had fallen by
    no more than `max_dev_loss`.
    """

    steps: int = 50
    learning_rate: float = 1e-3
    identities_per_step: int = 10
    photos_per_identity: int = 6
    retain_per_step: int = 0
    max_gradient_norm: float = 1.0
    augment: bool = False
    batchnorm: str = "frozen"
    check_every: int = 0
    max_dev_loss: float = 0.05
    unused: ClassVar[tuple[str, ...]] = ()  # shared knobs that turn nothing here: refused

    def __post_init__(self) -> None:
        one_of(self.batchnorm, LEVELS, "BatchNorm policy")
        if self.identities_per_step < 1 or self.photos_per_identity < 2:
            raise CourseError("A step needs identities_per_step of at least 1 and photos_per_identity of at least 2.")


@dataclass(frozen=True)
class LogitConfig(StepConfig):
    """The knobs of methods that look at logits.

    `forget_scale` is the softmax scale of every term without margin: at the head's own scale a sure model has no
    gradient. `trainable` says which of the copies may change: the backbone alone, both, or the head alone.
    """

    forget_scale: float = 16.0
    trainable: str = "backbone"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.trainable, TRAINABLE, "choice of what is trainable")
        if self.forget_scale <= 0:
            raise CourseError(f"forget_scale must be above 0, not {self.forget_scale}.")


@dataclass(frozen=True)
class Method:
    """A registry entry: the function, its typed config, what data it needs, and where it comes from.

    `needs` and `optional` name pools of training photos ("forget", "retain_train"); a pool is optional if the method
    can do without it (retain_per_step = 0). `labels` names the pools whose identities it must be told. `full` is what
    the full profile sets differently, `grid` what the sweep tries, `caveat` what nobody could check or what differs
    from the authors' code.
    `kind`: one that gives other "weights", a "wrapper" that adds a part to the network, or a "reference".
    """

    name: str
    run: Callable[..., None]
    config: type
    title: str
    needs: tuple[str, ...]
    source: str
    notebook: str
    optional: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    full: dict = field(default_factory=dict)
    grid: dict[str, tuple] = field(default_factory=dict)
    caveat: str = ""
    kind: str = "weights"


METHODS: dict[str, Method] = {}
KINDS = ("reference", "weights", "wrapper")  # in the order of tables: yardsticks, then each class by itself


def by_kind(name: str) -> tuple[int, int]:
    """Return where a method stands among all: by its class, then as registered; unknown ones come last."""
    if name not in METHODS:
        return len(KINDS), 0
    return KINDS.index(METHODS[name].kind), list(METHODS).index(name)


def method(name: str, config: type, **about: object) -> Callable:
    """Register an unlearning method under a name; used as a decorator on `run(task, config)`.

    `about` holds the remaining fields of Method; the config's defaults are the quick profile.
    """

    def register(run: Callable[..., None]) -> Callable[..., None]:
        METHODS[name] = Method(name, run, config, **about)
        return run

    return register


def make_config(name: str, options: dict) -> object:
    """Build a method's config; raises CourseError for an unknown method or key, or a value of the wrong type."""
    one_of(name, METHODS, "method")
    known = {f.name: f for f in dataclasses.fields(METHODS[name].config)}
    checked = {}
    for key, value in options.items():
        if key not in known:
            raise CourseError(f"Method '{name}' has no option '{key}'; it knows: {', '.join(known) or 'none'}.")
        default, value = known[key].default, plain(value)
        wanted = type(default)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
            value = float(value)
        if wanted is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if key in getattr(METHODS[name].config, "unused", ()) and value != default:
            raise CourseError(f"Option '{key}' changes nothing in method '{name}': leave it out.")
        if type(value) is not wanted:
            raise CourseError(f"Option '{key}' of method '{name}' must be of type {wanted.__name__}, not {value!r}.")
        if wanted in (int, float) and not (math.isfinite(value) and value >= 0):
            raise CourseError(f"Option '{key}' of method '{name}' must be finite and not negative; it is {value}.")
        checked[key] = value
    return METHODS[name].config(**checked)


def profile_options(name: str, profile: str) -> dict:
    """Return the settings by which a method's profile differs from its config's defaults; raises CourseError."""
    one_of(name, METHODS, "method")
    one_of(profile, PROFILES, "profile")
    return dict(METHODS[name].full) if profile == "full" else {}


def check_data(entry: Method, config: object, splits: Splits) -> None:
    """Raise a CourseError that names the photos a method needs, and the splits or its own settings withhold."""
    per_step = getattr(config, "retain_per_step", None)
    if per_step == 0 and "retain_train" in entry.needs:
        raise CourseError(f"Method '{entry.name}' needs retained photos: retain_per_step must be above 0.")
    if per_step and "retain_train" not in (*entry.needs, *entry.optional):
        raise CourseError(f"Method '{entry.name}' looks at forget photos only: leave retain_per_step at 0.")
    pools = (*entry.needs, *(entry.optional if per_step else ()))
    for pool in pools:
        if len(splits.photos(pool, "train")) == 0:
            whom = {"forget": "the forget", "retain_train": "retained"}[pool]
            raise CourseError(f"Method '{entry.name}' needs training photos of {whom} people; there are none.")
