"""What each part of the dispersion methods is worth, on people of no reported result: `python -m utils.ablation`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..settings import CourseError, command
from ..unlearning.dispersion import DISPERSIONS
from .benchmark import one_world, started
from .plan import ASKED, STORED, TUNING, Plan, file_of, how_to_run, plan_parser, world_of
from .results import ResultStore, full_config
from .runner import refuse, run_missing
from .sweep import about_trial, choose, dev_world, run_trial
from .tables import grouped, remark, score_cells, table_with_people, with_remarks

ABLATION_FILE = STORED / "ablation.json"
ablation_store = functools.partial(ResultStore, part="trials", name="ablation")
SEEDS = (0, 1)
RATES = (1e-3, 2e-3, 5e-3)  # every loss of the family is given the same three learning rates
POOLS = ("forget", "retain", "unseen")


class Variant(NamedTuple):
    """One line of the ablation: a method with some settings changed, and what the change is called."""

    group: str
    label: str
    method: str
    options: dict


LOSSES, WEIGHTS, LAYER = "the loss", "dispersion beside blends", "gather and scatter"
VARIANTS = (
    Variant(LOSSES, "original model", "original", {}),
    *(
        Variant(LOSSES, kind, "dispersion", {"kind": kind, "learning_rate": rate})
        for kind in DISPERSIONS
        for rate in RATES
    ),
    Variant(WEIGHTS, "all parts", "dispersion_blends", {}),
    Variant(WEIGHTS, "without blends", "dispersion_blends", {"blends_per_step": 0}),
    Variant(WEIGHTS, "without shifted photos", "dispersion_blends", {"shifted": 0.0}),
    Variant(WEIGHTS, "6 photos a person, not 20", "dispersion_blends", {"photos_per_identity": 6}),
    Variant(WEIGHTS, "every layer moves", "dispersion_blends", {"last_layers": 0}),
    Variant(LAYER, "all parts", "gather_scatter", {}),
    Variant(LAYER, "without blends", "gather_scatter", {"blends_per_step": 0}),
    Variant(LAYER, "nobody told to stay away", "gather_scatter", {"away_weight": 0.0}),
    Variant(LAYER, "without shifted photos", "gather_scatter", {"shifted": 0.0}),
    Variant(LAYER, "a slow layer (frequency 5)", "gather_scatter", {"frequency": 5.0}),
    Variant(LAYER, "every layer moves", "gather_scatter", {"last_layers": 0}),
)


def run_variant(variant: Variant, seed: int, world: Plan = TUNING) -> dict:
    """Run one variant on people who may decide a setting and return its scores."""
    return run_trial(variant.method, variant.options, seed, world)


def key_of(variant: Variant, seed: int, world: Plan = TUNING) -> dict:
    """Return the fields by which a stored trial is known to be this variant's."""
    return variant._asdict() | {"seed": seed} | started(world) | full_config(variant.method, variant.options)


def run_ablation(
    out: Path,
    *,
    variants: Sequence[Variant] = VARIANTS,
    seeds: Sequence[int] = SEEDS,
    world: Plan = TUNING,
    **how: object,
) -> list[dict]:
    """Run the missing variants as `run_missing` does, write `out` after each one, and return all trials in order.

    Raises CourseError. Introduced in notebook 08.
    """
    tasks = [(variant, seed, world) for variant in variants for seed in seeds]
    wanted, store = [(task, key_of(*task)) for task in tasks], one_world(ablation_store(out), world)
    steps = {"describe": about_variant, "prepare": lambda tasks: dev_world(world), "desc": "ablation"}
    rows, failed = run_missing(run_variant, wanted, store, **steps, **how)
    refuse(failed)
    return rows


def about_variant(variant: Variant, seed: int, world: Plan = TUNING) -> dict:
    """Return what a trial's row says of its faces and people."""
    return about_trial(variant.method, variant.options, seed, world)


def read_ablation(path: Path = ABLATION_FILE) -> list[dict]:
    """Read the trials of an ablation file; raises CourseError if it is absent, damaged or of another schema."""
    return ablation_store(path).read()["trials"]


def ablation_lines(trials: Sequence[dict]) -> list[tuple[str, str, list[dict]]]:
    """Return group, label and trials (one per seed) of every line.

    A loss that was tried with several learning rates is shown with the one that the sweep's rule chooses. Introduced in
    notebook 08.
    """
    start = [trial for trial in trials if trial["method"] == "original" and "error" not in trial]
    if not start:
        raise CourseError("The ablation holds no trial of the original model yet; run: python -m utils.ablation.")
    lines: dict[tuple, list[list[dict]]] = {}
    for group, _ in grouped(trials):
        lines.setdefault((group[0]["group"], group[0]["label"]), []).append(group)
    chosen = []
    for (part, label), groups in lines.items():
        sound = [group for group in groups if not any("error" in trial for trial in group)]
        chosen.append((part, label, choose(sound, start) if sound else groups[0]))
    return chosen


def ablation_table(trials: Sequence[dict], markdown: bool = False) -> str:
    """Return the ablation as text: held-out photos, percent, mean ± half range over the seeds.

    Introduced in notebook 08.
    """
    columns = [(pool, score) for pool in POOLS for score in ("r1", "map")]
    rows = [["part", "variant", *(f"{pool} {score}" for pool in POOLS for score in ("R@1", "mAP"))]]
    lines = ablation_lines(trials)
    rows += [[part, label, *score_cells(mine, columns)] for part, label, mine in lines]
    return table_with_people(with_remarks(rows, [remark(mine) for *_, mine in lines]), trials, markdown)


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    args = plan_parser("ablation", __doc__, ASKED, faces_seed=None).parse_args(arguments)
    path = file_of(args, "ablation")
    trials = read_ablation(path) if args.table else run_ablation(path, world=world_of(args), **how_to_run(args))
    print(ablation_table(trials, args.markdown))
    return 0
