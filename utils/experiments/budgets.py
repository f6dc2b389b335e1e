"""Every method at several budgets of photos, so that no ranking rests on one of them: `python -m utils.budgets`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..settings import CourseError, command, one_of
from ..unlearning.registry import METHODS, by_kind
from .benchmark import fresh_run, original_models, read_results, run_and_keep, runs_of, worker_run
from .plan import RUNNING, STORED, Plan, file_of, how_to_run, parse_methods, plan_parser
from .results import ResultStore
from .runner import refuse
from .tables import remark, score_cells, table_with_people, with_remarks

BUDGET_FILE = STORED / "budgets.json"
DEFAULTS = STORED / "synthetic_quick.json"  # what a step of each method looks at is known from these runs
BUDGETS = (2_000, 8_000, 33_000)  # photos looked at
NEAR = 0.1  # a budget so close to that of a method's own settings is run with these
POOLS = ("forget", "unseen")


def runs_by_default(path: Path = DEFAULTS) -> dict[str, list[dict]]:
    """Return the stored runs, a seed each, of every method that takes steps, with its own settings."""
    found: dict[str, list[dict]] = {}
    for run in read_results(path)["runs"]:
        if run["config"].get("steps") and run.get("images_processed"):
            found.setdefault(run["method"], []).append(run)
    return found


def steps_for(budget: int, steps: int, photos: int) -> int:
    """Return with how many steps a method looks at about `budget` photos, which in `steps` looks at `photos`."""
    return steps if abs(budget / photos - 1) < NEAR else max(1, round(budget * steps / photos))


def budget_plans(names: Sequence[str]) -> list[Plan]:
    """Return a plan for each method that takes steps, and budget, on the drawn faces and the first draw of people.

    Raises CourseError for an unknown name, and if none of the methods takes steps.
    """
    known, plans = runs_by_default(), []
    if not {one_of(name, METHODS, "method") for name in names} & known.keys():
        raise CourseError(f"No stored run of {', '.join(names)} counts steps, so there is one price and no curve.")
    for budget in BUDGETS:
        for name in (name for name in names if name in known):
            usual = known[name][-1]
            steps = steps_for(budget, usual["config"]["steps"], usual["images_processed"])
            plans.append(Plan(methods=(name,), options=((name, "steps", steps),)))
    return plans


def run_budgets(names: Sequence[str], out: Path, *, progress: bool = True, **how: object) -> dict:
    """Do what `out` lacks of these methods at every budget, as `run_missing` does, and return the file's content."""
    store, opened = ResultStore(out).checked(), {}
    plans = budget_plans(names)
    wanted = [run for plan in plans for run in runs_of(plan, plan.methods, opened, progress)]
    function = worker_run if how.get("jobs", 1) > 1 else partial(fresh_run, opened, progress)
    steps = {"desc": "budgets", "prepare": partial(original_models, opened, progress), "progress": progress}
    return run_and_keep(function, wanted, store, Plan(), opened, **steps, **how)


def budget_of(run: Mapping, known: Mapping[str, Sequence[Mapping]]) -> int:
    """Return the budget that a run was made for: the nearest to what its steps look at, wherever it stopped."""
    usual = known[run["method"]][-1]
    photos = run["config"]["steps"] * usual["images_processed"] / usual["config"]["steps"]
    return min(BUDGETS, key=lambda budget: abs(math.log(photos / budget)))


def budget_curves(runs: Iterable[Mapping]) -> dict[str, dict[int, Mapping]]:
    """Return each method's runs by their budget, the smallest first, in the order of the tables."""
    known, curves = runs_by_default(), {}
    for run in sorted(runs, key=lambda run: (by_kind(run["method"]), run["config"]["steps"])):
        curves.setdefault(run["method"], {})[budget_of(run, known)] = run
    return curves


def budget_table(runs: Sequence[Mapping], markdown: bool = False) -> str:
    """Return a row per method: forget and unseen mAP in percent at each budget, and the photos it really looked at."""
    rows, remarks = [["class", "method", *(f"{budget:,}: forget ↓ / unseen ↑" for budget in BUDGETS), "photos"]], []
    for name, curve in budget_curves(runs).items():
        at = [[curve[budget]] if budget in curve else [] for budget in BUDGETS]
        cells = [" / ".join(score_cells(run, [(pool, "map") for pool in POOLS])) if run else "–" for run in at]
        photos = ", ".join(f"{run['images_processed']:,}" for run in curve.values() if "images_processed" in run)
        rows.append([METHODS[name].kind, METHODS[name].title, *cells, photos or "–"])
        remarks.append(remark(list(curve.values())))
    return table_with_people(with_remarks(rows, remarks), runs, markdown)


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    doc = f"{__doc__} On the drawn faces, the first draw of ten people; methods that take no steps have one budget."
    args = plan_parser("budgets", doc, ("methods", *RUNNING, "markdown"), methods="all").parse_args(arguments)
    path = file_of(args, "budgets")
    if args.table and not path.exists():
        raise CourseError(f"There are no budgets at {path}; run: python -m utils.budgets --out {path}.")
    results = read_results(path) if args.table else run_budgets(parse_methods(args.methods), path, **how_to_run(args))
    print(budget_table(results["runs"], args.markdown))
    if not args.table:
        refuse(results.get("failed", ()))
    return 0
