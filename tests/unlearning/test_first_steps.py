"""The first steps of every method against plain loops: its terms, its slopes, its updates, its bookkeeping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from one_step import cosine_rates
from slow_steps import SLOW, Scene, mean_of_nearest, mean_of_pairs, record_steps

from utils.unlearning import losses
from utils.unlearning.loop import unlearn
from utils.unlearning.losses import strangers_apart
from utils.unlearning.registry import METHODS, StepConfig, make_config

SEED, RATE = 3, 2e-2
SHARED = {"steps": 3, "learning_rate": RATE, "photos_per_identity": 3, "max_gradient_norm": 0.5, "check_every": 0}
LOGITS = {"forget_scale": 12.0, "trainable": "both"}
KEEPING = {"retain_per_step": 5}
PLAIN = {"batchnorm": "frozen", "augment": False}  # fine-tuning's are neither
SPECIAL = {
    "finetune": LOGITS | KEEPING | PLAIN,
    "l1_sparse": LOGITS | KEEPING | PLAIN | {"penalty": 0.03, "free_share": 0.4},
    "random_labels": LOGITS | KEEPING | {"retain_weight": 0.7},
    "random_labels_resampled": LOGITS | KEEPING | {"retain_weight": 0.7},
    "gradient_ascent": LOGITS,
    "bounded_ascent": LOGITS | KEEPING | {"beta": 0.6, "bound": 2.5},
    "neggrad_plus": LOGITS | KEEPING | {"alpha": 0.8},
    "boundary_shrink": LOGITS | {"epsilon": 0.0},
    "boundary_expand": LOGITS | {"shadow_rows": 2},
    "bad_teacher": LOGITS | KEEPING | {"retain_weight": 1.7},
    "scrub": LOGITS | KEEPING | {"gamma": 0.7, "alpha": 0.3, "max_share": 1.0, "rewind": False},
    "lotus": LOGITS | KEEPING | {"sharpness": 1.5, "retain_weight": 1.7, "accuracy_every": 1},
    "delete": LOGITS,
    "duck": LOGITS | KEEPING | {"pull_weight": 1.3, "retain_weight": 0.6},
    "cure_like": KEEPING | {"clusters": 3, "contrast_weight": 0.6, "temperature": 0.3, "retain_weight": 1.7},
    "gs_lora": KEEPING | {"forget_scale": 12.0, "beta": 0.6, "bound": 2.5, "sparse_weight": 0.02, "rank": 2},
    "unsir": LOGITS | KEEPING | {"impair_share": 1.0, "noise_steps": 2, "noise_batches": 2},
    "dispersion_uniform": KEEPING | {"dispersion_weight": 0.6, "retain_weight": 1.7},
    "dispersion_hard": KEEPING | {"dispersion_weight": 0.6, "retain_weight": 1.7},
    "dispersion": KEEPING | {"dispersion_weight": 0.6, "retain_weight": 1.7, "beta": 4.0},
}
SPECIAL |= {"dispersion_uniform_alone": {}, "dispersion_hard_alone": {}}
BLENDS = {"blends_per_step": 4, "blend_weight": 1.3, "shifted": 0.3, "beta": 4.0}
SPECIAL["dispersion_blends"] = KEEPING | BLENDS | {"retain_weight": 1.7, "last_layers": 0}
SPECIAL["dispersion_forget_only"] = BLENDS | {"last_layers": 2}
SPECIAL["gather_scatter"] = SPECIAL["dispersion_blends"] | {"away_weight": 1.4, "scramble_weight": 0.6}
NEVER_FORGET = ("finetune", "l1_sparse", "unsir")  # they see no forget photo
UNTOUCHED = {"salun", "salun_fixed"}  # relabelling in some of the weights: test_methods_pruning.py


@pytest.fixture(autouse=True)
def pulled_anchors(monkeypatch: pytest.MonkeyPatch, whole_rates: None) -> None:
    """Let anchors pull as hard as this toy's strangers, who lie close together, ask for."""
    monkeypatch.setattr(losses, "strangers_apart", strangers_apart)


def options_of(name: str) -> dict:
    shared = {key: value for key, value in SHARED.items() if key not in METHODS[name].config.unused}
    return {k: v for k, v in (shared | SPECIAL[name]).items() if k not in METHODS[name].config.unused}


def run(name, world, seed=SEED, **options):
    return unlearn(name, *world, seed=seed, device="cpu", progress=False, **options)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])


def test_every_stepwise_method_has_a_slow_reference():
    stepwise = {name for name, entry in METHODS.items() if issubclass(entry.config, StepConfig)}
    assert stepwise - UNTOUCHED == set(SLOW) == set(SPECIAL), "write its loss in plain loops in slow_steps.py"


@pytest.mark.filterwarnings("ignore:The head names")
@pytest.mark.parametrize("name", SLOW)
def test_the_first_steps_equal_plain_loops(name, toy_world, toys_only, monkeypatch):
    """Three steps, as at the first one a student is its own teacher, and all that should hold it is zero."""
    steps, options = record_steps(monkeypatch), options_of(name)
    outcome, config = run(name, toy_world, **options), make_config(name, options)
    assert len(steps) == len(outcome.history) == 3 and outcome.config == vars(config)
    largest: dict[str, float] = {}
    for step, entry in zip(steps, outcome.history, strict=True):
        scene = Scene(step, config, toy_world, SEED)
        weights = [w for module in (scene.model, scene.head) for w in module.parameters() if w.requires_grad]
        assert sum(w.numel() for w in weights) == sum(w.numel() for w in step.moving)
        terms = SLOW[name](scene)
        expected = torch.autograd.grad(sum(terms.values()), weights, allow_unused=True)
        expected = [w.new_zeros(w.shape) if g is None else g for w, g in zip(weights, expected, strict=True)]
        assert relative(flat(step.slopes), flat(expected)) < 2e-5, f"slope of step {step.number}"
        cosines = {} if not len(step.forget) else {
            "mean_cosine": mean_of_pairs(scene.f, scene.people),
            "nearest_cosine": mean_of_nearest(scene.f, scene.people),
        }  # fmt: skip
        told = {key: value for key, value in entry.items() if key not in ("step", "moved", "noise_norm")}
        wanted = {key: float(value.detach()) for key, value in (terms | cosines).items()}
        assert told == pytest.approx(wanted, rel=1e-5, abs=1e-5)
        assert step.limit == config.max_gradient_norm
        largest |= {key: max(abs(wanted[key]), largest.get(key, 0.0)) for key in terms}
    assert min(largest.values()) > 1e-3, f"a term that is always zero: {largest}"


@pytest.mark.filterwarnings("ignore:The head names")
@pytest.mark.parametrize("name", SLOW)
def test_updates_are_adamw_on_a_cosine_schedule_with_clipped_slopes(name, toy_world, toys_only, monkeypatch):
    steps = record_steps(monkeypatch)
    outcome = run(name, toy_world, **options_of(name))
    moving, first, second = [flat(step.moving) for step in steps], 0.0, 0.0
    for t, (step, rate) in enumerate(zip(steps, cosine_rates(RATE, 3), strict=True), 1):
        slope = flat(step.slopes)
        slope = slope * min(1.0, 0.5 / float(slope.norm()))
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        push = rate * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        expected = float((moving[t - 1] - push - moving[0]).norm() / moving[0].norm())
        assert outcome.history[t - 1]["moved"] == pytest.approx(expected, rel=1e-4)
        if t < len(steps):
            assert relative(moving[t] - moving[t - 1], -push) < 1e-3


@pytest.mark.filterwarnings("ignore:The head names")
@pytest.mark.parametrize("name", SLOW)
def test_photos_come_from_the_right_people_in_the_right_numbers(name, toy_world, toys_only, monkeypatch):
    steps, (*_, splits) = record_steps(monkeypatch), toy_world
    run(name, toy_world, **options_of(name))
    labels, train = splits.faces.labels, set(splits.train.tolist())
    others, seen = set(splits.retain) | set(splits.dev_forget), []
    for step in steps:
        people, counts = np.unique(labels[step.forget], return_counts=True)
        no_forget = name in NEVER_FORGET or (name == "scrub" and step.number % 2 == 0)
        assert set(people) == (set() if no_forget else set(splits.forget)) and set(counts) <= {3}
        no_retain = "retain_per_step" not in SPECIAL[name] or (name == "scrub" and step.number % 2)
        assert len(step.retain) == (0 if no_retain else 5) and set(labels[step.retain]) <= others
        assert set(step.forget.tolist()) | set(step.retain.tolist()) <= train
        assert len(set(step.forget.tolist())) == len(step.forget)
        seen += step.retain.tolist()
    assert len(set(seen)) == len(seen), "no retained photo comes back before all were seen"


@pytest.mark.filterwarnings("ignore:The head names")
@pytest.mark.parametrize("name", SLOW)
def test_a_step_large_enough_shows_everybody(name, toy_world, toys_only, monkeypatch):
    """All training photos of the forgotten, and of all who stay, the dev-forget people among them."""
    steps, splits = record_steps(monkeypatch), toy_world[2]
    options = options_of(name) | {"steps": 2}
    large = {"retain_per_step": 48} | ({} if name == "unsir" else {"photos_per_identity": 99})
    run(name, toy_world, **options | {key: value for key, value in large.items() if key in options})
    forget, kept = ({i for step in steps for i in getattr(step, side).tolist()} for side in ("forget", "retain"))
    assert not forget or forget == {i for i in splits.train if splits.faces.labels[i] in splits.forget}
    assert not kept or kept == {i for i in splits.train if splits.faces.labels[i] not in splits.forget}
    assert bool(forget) == (name not in NEVER_FORGET) and bool(kept) == ("retain_per_step" in SPECIAL[name])
