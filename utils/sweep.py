"""Choose every method's settings on the dev-forget people, the same number of trials each: `python -m utils.sweep`."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from .benchmark import parse_methods
from .datasets import load_faces
from .parallel import finished
from .results import ResultStore
from .retrieval import evaluate
from .settings import BUILD_DIR, REPO_ROOT, CourseError, command, one_of, progress_bar
from .splits import Splits, make_splits
from .tables import text_table
from .training import Recogniser, load_or_train
from .unlearning import METHODS, unlearn

SCHEMA = 1
TRIALS = 8  # the tuning budget, the same for every method
SWEEP_FILE = REPO_ROOT / "data" / "results" / "sweep.json"
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
def dev_world() -> tuple[Splits, Recogniser]:
    """Return the default data set with the dev-forget people as those to forget, and the embedded model."""
    torch.set_num_threads(1)  # one process per core is faster than two threads in one
    splits = make_splits(load_faces("synthetic", progress=False)).swap_dev()
    return splits, load_or_train(splits, progress=False)


def run_trial(name: str, options: dict, seed: int = 0) -> dict:
    """Unlearn the dev-forget people once and return the scores that the choice rests on, or why there are none."""
    splits, recogniser = dev_world()
    trial = {"method": name, "options": options}
    try:
        outcome = unlearn(name, recogniser.model, recogniser.head, splits, seed=seed, progress=False, **options)
    except CourseError as error:
        return trial | {"error": str(error)}
    scores = evaluate(outcome.model, splits, outcome.head)
    pools = {
        pool: {key: round(scores[pool][key], 4) for key in ("r1", "map", "accuracy") if key in scores[pool]}
        for pool in ("forget", "retain", "unseen")
    }
    return trial | {"images_processed": outcome.images_processed, "seconds": round(outcome.seconds, 1)} | pools


def excess(trial: dict, start: dict) -> float:
    """Return by how much mAP a trial costs more than it may, 0 if it keeps within the limits."""
    return max(0.0, *(start[pool]["map"] - trial[pool]["map"] - limit for pool, limit in MAX_LOSS.items()))


def choose(trials: Sequence[dict], start: dict) -> dict:
    """Return the chosen trial of one method, by the rule above; raises CourseError if every trial failed."""
    finished = [trial for trial in trials if "error" not in trial]
    if not finished:
        raise CourseError(f"Every trial of '{trials[0]['method']}' failed: {trials[0]['error']}")
    return min(finished, key=lambda trial: (excess(trial, start), trial["forget"]["map"]))


def run_sweep(names: Sequence[str], out: Path, *, jobs: int = 1, fresh: bool = False, progress: bool = True) -> dict:
    """Run the missing trials of some methods, `jobs` at a time, write `out` after each one, and choose.

    Trials that `out` already holds are not repeated unless `fresh`. Raises CourseError.
    """
    for name in names:
        one_of(name, tuned_methods(), "method with a grid")
    wanted = [("original", {}), *((name, options) for name in names for options in trials_of(name))]
    store = sweep_store(out).checked()
    done = [] if fresh else store.rows()
    missing = [trial for trial in wanted if not any(is_trial(row, *trial) for row in done)]
    for trial in progress_bar(finished(run_trial, missing, jobs), desc="trials", total=len(missing), enabled=progress):
        store.add(trial, {key: trial[key] for key in ("method", "options")}, sweep_object)
    return read_sweep(store.path)


def sweep_store(path: Path) -> ResultStore:
    """Return the store of a sweep's trials."""
    return ResultStore(path, "trials", SCHEMA, "python -m utils.sweep")


def is_trial(row: dict, name: str, options: dict) -> bool:
    """Say whether a stored trial is that of a method with these options."""
    return row["method"] == name and row["options"] == options


def sweep_object(trials: Sequence[dict]) -> dict:
    """Return what a sweep file holds: the rule, all trials in order, and the choice per method whose grid is done."""
    order = {name: place for place, name in enumerate(METHODS)}
    trials = sorted(trials, key=lambda trial: (order.get(trial["method"], len(order)), json.dumps(trial["options"])))
    start = next((trial for trial in trials if trial["method"] == "original"), None)
    chosen = {}
    for name in dict.fromkeys(trial["method"] for trial in trials):
        grid = trials_of(name) if name in METHODS else []
        mine = [trial for trial in trials if trial["method"] == name and trial["options"] in grid]
        if start and grid and len(mine) == len(grid):
            chosen[name] = choose(mine, start)["options"]
    return {"schema": SCHEMA, "rule": RULE, "trials": trials, "chosen": chosen}


def read_sweep(path: Path) -> dict:
    """Read a sweep file; raises CourseError if it is absent, damaged or of another schema."""
    return sweep_store(path).read()


def sweep_table(sweep: dict, names: Sequence[str] | None = None) -> str:
    """Return every trial as aligned text, the chosen ones marked; scores of the dev-forget people in percent."""
    rows = [("", "method", "options", "forget R@1", "mAP", "retain R@1", "mAP", "unseen R@1", "mAP", "images")]
    for trial in sweep["trials"]:
        if names and trial["method"] not in (*names, "original"):
            continue
        chosen = sweep["chosen"].get(trial["method"]) == trial["options"]
        options = ", ".join(f"{key} {value}" for key, value in trial["options"].items())
        pools = (trial.get(pool, {}) for pool in ("forget", "retain", "unseen"))
        scores = [f"{100 * pool[key]:.1f}" if pool else "–" for pool in pools for key in ("r1", "map")]
        rows.append(("*" if chosen else "", trial["method"], options, *scores, f"{trial.get('images_processed', 0):,}"))
    return text_table(rows)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.sweep", description=f"{__doc__} On the drawn faces only.", epilog=f"The rule: {RULE}."
    )
    add = parser.add_argument
    add("--methods", default="all", metavar="A,B", help=f"'all', or some of: {', '.join(tuned_methods())}")
    add("--out", type=Path, metavar="FILE", help="where trials are kept (build/sweep.json; --table: the course's)")
    add("--jobs", type=int, default=1, metavar="N", help="trials at a time, one core each")
    add("--fresh", action="store_true", help="try these again though that file holds them; others stay")
    add("--table", action="store_true", help="only print the trials of an existing file")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    args = make_parser().parse_args(arguments)
    names = tuned_methods() if args.methods == "all" else list(parse_methods(args.methods))
    if args.table:
        sweep = read_sweep(args.out or SWEEP_FILE)
    else:
        sweep = run_sweep(
            names, args.out or BUILD_DIR / "sweep.json", jobs=args.jobs, fresh=args.fresh, progress=not args.quiet
        )
    print(sweep_table(sweep, names))
    print(f"* chosen: {RULE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
