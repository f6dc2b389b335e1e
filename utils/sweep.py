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

from .benchmark import code_version, parse_methods, without_nan, write_results
from .datasets import load_faces
from .parallel import finished
from .retrieval import evaluate
from .settings import REPO_ROOT, CourseError, one_of, progress_bar
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
    trial = {"method": name, "options": options, "code": code_version(name)}
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

    Trials that `out` already holds, made with the same code, are not repeated unless `fresh`. Raises CourseError.
    """
    for name in names:
        one_of(name, tuned_methods(), "method with a grid")
    wanted = [("original", {}), *((name, options) for name in names for options in trials_of(name))]
    done = [] if fresh or not out.is_file() else read_sweep(out)["trials"]
    done = [trial for trial in done if trial["method"] not in ("original", *names) or is_current(trial)]
    missing = [trial for trial in wanted if not any(is_trial(row, *trial) for row in done)]
    out.parent.mkdir(parents=True, exist_ok=True)
    for trial in progress_bar(finished(run_trial, missing, jobs), desc="trials", total=len(missing), enabled=progress):
        done.append(without_nan(trial))
        write_results(out, sweep_object(done))
    write_results(out, sweep_object(done))
    return sweep_object(done)


def is_current(trial: dict) -> bool:
    """Say whether a stored trial was made with the code as it is now."""
    return trial["code"] == code_version(trial["method"])


def is_trial(row: dict, name: str, options: dict) -> bool:
    """Say whether a stored trial is that of a method with these options."""
    return row["method"] == name and row["options"] == options


def sweep_object(trials: Sequence[dict]) -> dict:
    """Return what the sweep file holds: the rule, every trial of today's grids in order, and the choice per method."""
    order = {name: place for place, name in enumerate(METHODS)}
    trials = [trial for trial in trials if trial["options"] in (trials_of(trial["method"]) or [{}])]
    trials = sorted(trials, key=lambda trial: (order[trial["method"]], json.dumps(trial["options"])))
    start = next((trial for trial in trials if trial["method"] == "original"), None)
    chosen = {}
    for name in dict.fromkeys(trial["method"] for trial in trials):
        mine = [trial for trial in trials if trial["method"] == name]
        if start and METHODS[name].grid and len(mine) == len(trials_of(name)):
            chosen[name] = choose(mine, start)["options"]
    return {"schema": SCHEMA, "rule": RULE, "trials": trials, "chosen": chosen}


def read_sweep(path: Path) -> dict:
    """Read a sweep file; raises CourseError if it is absent, damaged or of another schema."""
    try:
        sweep = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CourseError(f"There is no sweep at {path}; run: python -m utils.sweep --out {path}.") from error
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} is not a sweep file ({error}); move it away or add --fresh.") from error
    if not (isinstance(sweep, dict) and sweep.get("schema") == SCHEMA and isinstance(sweep.get("trials"), list)):
        raise CourseError(f"{path} is not a sweep file of schema {SCHEMA}; move it away or add --fresh.")
    known = [trial for trial in sweep["trials"] if trial["method"] in METHODS]
    return sweep | {"trials": known}


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
    parser = argparse.ArgumentParser(prog="python -m utils.sweep", description=__doc__, epilog=f"The rule: {RULE}.")
    add = parser.add_argument
    add("--methods", default="all", metavar="A,B", help=f"'all', or some of: {', '.join(tuned_methods())}")
    add("--out", type=Path, default=SWEEP_FILE, metavar="FILE", help="where trials are kept (default: the course's)")
    add("--jobs", type=int, default=1, metavar="N", help="trials at a time, one core each")
    add("--fresh", action="store_true", help="forget earlier trials in that file instead of resuming")
    add("--table", action="store_true", help="only print the trials of an existing file")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    args = make_parser().parse_args(arguments)
    names = tuned_methods() if args.methods == "all" else list(parse_methods(args.methods))
    try:
        if args.table:
            sweep = read_sweep(args.out)
        else:
            sweep = run_sweep(names, args.out, jobs=args.jobs, fresh=args.fresh, progress=not args.quiet)
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(sweep_table(sweep, names))
    print(f"* chosen: {RULE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
