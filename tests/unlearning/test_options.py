"""Every option of every method changes what comes back, or is refused: tried one by one in a very small world."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from slow_steps import record_steps

from utils.settings import CourseError
from utils.unlearning import loop as frame
from utils.unlearning.loop import EarlyStopping, unlearn
from utils.unlearning.registry import METHODS

OTHER = {  # a value that tells, where twice as much would not
    "steps": 5,
    "max_gradient_norm": 1e-7,
    "identities_per_step": 1,
    "photos_per_identity": 2,
    "retain_per_step": 3,
    "blends_per_step": 3,
    "batchnorm": ("frozen", "train"),
    "trainable": ("backbone", "both"),
    "loss": ("cosface", "arcface"),
    "kind": ("lse", "hard"),
    "max_photos": 10,
    "check_every": 1,
    "max_dev_loss": 0.5,
    "last_layers": 1,
    "rewind_every": 1,
    "rewind_error": 0.0,
    "accuracy_every": 1,
    "per_person": 1,
    "directions": 2,
    "clusters": 3,
    "max_share": 0.0,
    "impair_share": 1.0,
    "rho": 0.3,
    "n_features": 16,
    "epochs": 2,
    "batch_size": 16,
    "strength": 0.1,
    "gate_margin": 0.0,
}
BESIDE = {  # what else must be set for an option to have its turn
    "max_dev_loss": {"check_every": 1, "rewind": False},
    "check_every": {"rewind": False},
    "rewind_error": {"rewind_every": 1},
    "gate_margin": {"steps": 40, "learning_rate": 0.03, "retain_weight": 0.0, "blend_weight": 0.0, "last_layers": 0},
    ("gather_scatter", "beta"): {"scramble_weight": 1.0},
}
# the toy's strangers are as close to the stored means as its forgotten people: tried in test_methods_block_list.py
ELSEWHERE = {("block_list", "gate_margin")}
ALWAYS = {"steps": 2, "check_every": 0, "epochs": 1, "noise_steps": 2, "max_share": 1.0}
DAMPING = {"alpha": 1.0}  # the toy's weights hardly differ: at 10 none would be damped


def told(world, name: str, options: dict) -> list:
    """Run a method and return all that comes back, as plain numbers."""
    outcome = unlearn(name, *world, device="cpu", progress=False, **options)
    tensors = {**outcome.model.state_dict(), **{f"head {k}": v for k, v in outcome.trained_head.state_dict().items()}}
    numbers = {key: value.numpy().tobytes() for key, value in tensors.items()}
    return [outcome.images_processed, outcome.history, numbers]


def another(option: str, default: object) -> object:
    """Return a value that is not the default."""
    if isinstance(default, bool):
        return not default
    if option not in OTHER:
        return 2 * default or 1.0
    value = OTHER[option]
    return value[value.index(default) - 1] if isinstance(value, tuple) else value


@pytest.mark.filterwarnings("ignore:The head names")
@pytest.mark.parametrize("name", list(METHODS))
def test_every_option_has_an_effect_or_is_refused(name, toy_world, toys_only, monkeypatch, own_cache):
    """A dropped option cannot be seen by reading attributes, for the shared steps read all of theirs."""
    watched = iter(())
    monkeypatch.setattr(EarlyStopping, "score", lambda self: next(watched))  # the dev people get lost, bit by bit
    defaults = METHODS[name].config()
    known = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    ran: dict[str, list] = {}
    for option, default in known.items():
        if (name, option) in ELSEWHERE:
            continue
        base = ALWAYS | (DAMPING if "strength" in known else {}) | BESIDE.get(option, {})
        base |= BESIDE.get((name, option), {})
        base = {key: value for key, value in sorted(base.items()) if key in known}
        changed, pair = another(option, default), []
        for options in (base, base | {option: changed}):
            watched = iter([1.0 - 0.1 * i for i in range(20)])
            try:
                if str(options) not in ran:
                    ran[str(options)] = told(toy_world, name, options)
                pair.append(ran[str(options)])
            except CourseError as error:
                assert options != base and "leave" in str(error), f"{name}.{option}: {error}"
        assert len(pair) < 2 or pair[0] != pair[1], (
            f"'{option}' of '{name}' changes nothing from {default} to {changed}"
        )


TERM = {  # the term of the loss that an option weighs, where the option's name does not say it
    "blend_weight": "blends",
    "pull_weight": "forget",
    "sparse_weight": "sparsity",
    ("bounded_ascent", "beta"): "forget",
    ("gs_lora", "beta"): "forget",
    ("scrub", "gamma"): "retain",
    ("scrub", "alpha"): "teacher",
    ("l1_sparse", "penalty"): "sparsity",
}
WEIGHTS = [
    (name, option, TERM.get((name, option), TERM.get(option, option.removesuffix("_weight"))))
    for name, entry in METHODS.items()
    for option in entry.config.__dataclass_fields__
    if (option.endswith("_weight") or (name, option) in TERM) and option not in getattr(entry.config, "unused", ())
]


def nudge(monkeypatch) -> None:
    """Move every student a little before its first step, after all teachers were made of the original."""
    real = frame.set_batchnorm

    def nudged(model, policy):
        real(model, policy)
        random = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=random))

    monkeypatch.setattr(frame, "set_batchnorm", nudged)


@pytest.mark.filterwarnings("ignore:The head names")
@pytest.mark.parametrize("name, option, term", WEIGHTS)
def test_a_weight_scales_its_own_term_and_no_other(name, option, term, toy_world, toys_only, monkeypatch):
    """At 0, w and 4 w: the term and its slope grow in proportion, all other terms stay what they were."""
    nudge(monkeypatch)
    steps, known = record_steps(monkeypatch), METHODS[name].config.__dataclass_fields__
    base = ALWAYS | {"retain_per_step": 4, "max_gradient_norm": 1e9, "steps": 1 + (option == "sparse_weight")}
    base |= {"bound": 9.0, "impair_share": 1.0, "rewind": False}
    base = {k: v for k, v in base.items() if k in known and (k != "retain_per_step" or known[k].default)}
    runs = []
    for weight in (0.0, 0.5, 2.0):
        history = unlearn(name, *toy_world, device="cpu", progress=False, **base | {option: weight}).history
        told = {key: value for key, value in history[-1].items() if key not in ("step", "moved")}
        runs.append((told, torch.cat([slope.flatten() for slope in steps[-1].slopes])))
    (none, flat), (once, slope), (four, steep) = runs
    assert abs(once[term]) > 1e-4 and none.get(term, 0.0) == 0.0
    assert four[term] == pytest.approx(4 * once[term], rel=1e-5)
    assert all(none[key] == once[key] == four[key] for key in once if key != term)
    assert (slope - flat).norm() > 1e-4, "the term has no slope"
    assert (steep - flat - 4 * (slope - flat)).norm() < 1e-4 * (steep - flat).norm()
