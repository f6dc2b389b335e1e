"""Choose every method's settings on the dev-forget people, the same number of trials each: `python -m utils.sweep`."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from ..faces.splits import Splits
from ..models.checkpoints import Recogniser
from ..retrieval.evaluation import evaluate
from ..settings import CourseError, command, one_of, resolve_device
from ..tables import text_table
from ..unlearning.loop import unlearn
from ..unlearning.registry import METHODS, StepConfig
from .benchmark import one_world, started
from .plan import ASKED, STORED, USUAL, Plan, file_of, how_to_run, parse_methods, plan_parser, prepared, world_of
from .results import SCHEMA, ResultStore, about, full_config
from .runner import refuse, run_missing
from .tables import remark, score_cells, table_with_people, with_remarks, written

TRIALS = 8  # the tuning budget, the same for every method
SWEEP_FILE = STORED / "sweep.json"
sweep_store = functools.partial(ResultStore, part="trials", name="sweep")
MAX_LOSS = {"retain": 0.05, "unseen": 0.10}  # how much mAP a chosen setting may cost the people who stay
RULE = (
    "of the trials in which retained people lose at most 5 points of mAP and unseen people at most 10, the one with "
    "the lowest forget mAP; if every trial costs more, the one that costs least"
)


def trials_of(name: str) -> list[dict]:
    """Return the settings to try for one method: the product of its grid."""
    grid = METHODS[name].grid
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []


def tuned_methods() -> list[str]:
    """Return the names of the methods that have something to choose."""
    return [name for name, entry in METHODS.items() if entry.grid]


@functools.cache
def dev_world(world: Plan = USUAL) -> tuple[Splits, Recogniser]:
    """Return a plan's faces with the dev-forget people as those to forget, and the model that it starts from."""
    torch.set_num_threads(1)  # one process per core is faster than two threads in one
    return prepared(replace(world, dev=True), 0, {}, progress=False)


def run_trial(name: str, options: dict, seed: int = 0, world: Plan = USUAL) -> dict:
    """Unlearn the dev-forget people once and return the scores that the choice rests on; raises CourseError."""
    splits, start = dev_world(world)
    device = resolve_device(world.device)
    outcome = unlearn(name, start.model, start.head, splits, seed=seed, device=device, progress=False, **options)
    scores = evaluate(outcome.model, splits, outcome.trained_head, device=device).scores()
    pools = {
        pool: {key: round(scores[pool][key], 4) for key in ("r1", "map", "accuracy") if key in scores[pool]}
        for pool in ("forget", "retain", "unseen")
    }
    return {"images_processed": outcome.images_processed, "seconds": round(outcome.seconds, 1)} | pools


def key_of(name: str, options: dict, world: Plan = USUAL) -> dict:
    """Return the fields by which a stored trial is known to be this one."""
    return {"method": name, "options": options} | started(world) | full_config(name, options)


def about_trial(name: str, options: dict, seed: int = 0, world: Plan = USUAL) -> dict:
    """Return what a trial's row says of its faces and people."""
    return about(name, dev_world(world)[0], world.root)


def excess(trial: dict, start: dict) -> float:
    """Return by how much mAP a trial costs more than it may, 0 if it keeps within the limits."""
    return max(0.0, *(start[pool]["map"] - trial[pool]["map"] - limit for pool, limit in MAX_LOSS.items()))


def choose(trials: Sequence[dict], start: dict) -> dict:
    """Return the chosen trial of one method, by the rule above; raises CourseError if every trial failed."""
    done = [trial for trial in trials if "error" not in trial]
    if not done:
        raise CourseError(f"Every trial of '{trials[0]['method']}' failed: {trials[0]['error']}")
    return min(done, key=lambda trial: (excess(trial, start), trial["forget"]["map"]))


def run_sweep(names: Sequence[str], out: Path, *, world: Plan = USUAL, **how: object) -> dict:
    """Run the missing trials of some methods as `run_missing` does, write `out` after each one, and choose.

    Raises CourseError.
    """
    for name in names:
        one_of(name, tuned_methods(), "method with a grid")
    trials = [("original", {}), *((name, options) for name in names for options in trials_of(name))]
    wanted = [((*trial, 0, world), key_of(*trial, world)) for trial in trials]
    store = one_world(sweep_store(out), world)
    steps = {
        "describe": about_trial,
        "finish": sweep_object,
        "prepare": lambda tasks: dev_world(world),
        "desc": "trials",
    }
    refuse(run_missing(run_trial, wanted, store, **steps, **how)[1])
    return read_sweep(store.path)


def sweep_object(trials: Sequence[dict]) -> dict:
    """Return what a sweep file holds: the rule, all trials in order, and the choice per method whose grid is done."""
    order = {name: place for place, name in enumerate(METHODS)}
    trials = sorted(trials, key=lambda trial: (order.get(trial["method"], len(order)), json.dumps(trial["options"])))
    start = next((trial for trial in trials if trial["method"] == "original"), None)
    chosen = {}
    for name in dict.fromkeys(trial["method"] for trial in trials):
        grid = trials_of(name) if name in METHODS else []
        mine = [trial for trial in trials if trial["method"] == name and trial["options"] in grid]
        if start and grid and len(mine) == len(grid) and not all("error" in trial for trial in mine):
            chosen[name] = choose(mine, start)["options"]
    return {"schema": SCHEMA, "rule": RULE, "trials": trials, "chosen": chosen}


def read_sweep(path: Path) -> dict:
    """Read a sweep file; raises CourseError if it is absent, damaged or of another schema."""
    return sweep_store(path).read()


def sweep_table(sweep: dict, names: Sequence[str] | None = None) -> str:
    """Return every trial as aligned text, the chosen ones marked; scores of the dev-forget people in percent."""
    header = ("", "method", "options", "forget R@1", "mAP", "retain R@1", "mAP", "unseen R@1", "mAP", "images")
    trials = [trial for trial in sweep["trials"] if not names or trial["method"] in (*names, "original")]
    rows = []
    for trial in trials:
        chosen = "*" if sweep["chosen"].get(trial["method"]) == trial["options"] else ""
        options = ", ".join(f"{key} {value}" for key, value in trial["options"].items())
        scores = score_cells([trial], ((pool, key) for pool in ("forget", "retain", "unseen") for key in ("r1", "map")))
        rows.append((chosen, trial["method"], options, *scores, f"{trial.get('images_processed', 0):,}"))
    table = with_remarks([header, *rows], [remark([trial]) for trial in trials])
    return table_with_people(table, trials, failed=sweep.get("failed", ()))


def fixed_table(names: Sequence[str], markdown: bool = False) -> str:
    """Return a row per method: what its grid tries, and the settings of its own that nobody swept, as they stand."""
    shared = {field.name for field in fields(StepConfig)}
    rows = [["method", "swept", "set once, never swept"]]
    for name in names:
        entry = METHODS[one_of(name, tuned_methods(), "method with a grid")]
        config = entry.config()
        own = [
            field.name for field in fields(config) if field.name not in (*entry.grid, *getattr(config, "unused", ()))
        ]
        moved = [key for key in own if key not in shared or getattr(config, key) != getattr(StepConfig(), key)]
        kept = ", ".join(f"{key} {written(getattr(config, key))}" for key in moved)
        rows.append([entry.title, ", ".join(entry.grid), kept or "nothing"])
    return text_table(rows, markdown)


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    doc = f"{__doc__} The rule: {RULE}."
    parser = plan_parser("sweep", doc, ("methods", *ASKED), methods="all")
    parser.add_argument("--fixed", action="store_true", help="only print which settings were never swept")
    args = parser.parse_args(arguments)
    names = tuned_methods() if args.methods == "all" else list(parse_methods(args.methods))
    if args.fixed:
        print(fixed_table(names, args.markdown))
        return 0
    path = file_of(args, "sweep")
    sweep = read_sweep(path) if args.table else run_sweep(names, path, world=world_of(args), **how_to_run(args))
    print(sweep_table(sweep, names))
    print(f"* chosen: {RULE}")
    return 0
