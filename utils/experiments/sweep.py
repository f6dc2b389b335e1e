"""Choose every method's settings on people who are in no comparison of methods, the same number of trials each:
`python -m utils.sweep`."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean

import torch

from ..faces.splits import Splits
from ..models.checkpoints import Recogniser
from ..retrieval.evaluation import evaluate
from ..settings import CourseError, command, one_of, resolve_device, whole_number
from ..tables import text_table
from ..unlearning.loop import unlearn
from ..unlearning.registry import METHODS, StepConfig, by_kind
from .benchmark import one_world, started
from .plan import (
    ASKED,
    STORED,
    TUNING,
    USUAL,
    Plan,
    file_of,
    how_to_run,
    parse_methods,
    plan_parser,
    prepared,
    world_of,
)
from .results import SCHEMA, ResultStore, about, full_config
from .runner import refuse, run_missing
from .tables import grouped, remark, score_cells, table_with_people, with_remarks, written

TRIALS = 8  # the tuning budget, the same for every method
DRAWS = 2  # sets of people that every trial forgets, one after the other: one of ten people is few searches
OTHERS_FILE = STORED / "sweep_others.json"  # every setting, on drawn people of another town
REAL_FILE = STORED / "sweep_lfw.json"  # the best of those on real faces and dlib's network
sweep_store = functools.partial(ResultStore, part="trials", name="sweep")
MAX_LOSS = {"retain": 0.05, "unseen": 0.10}  # how much mAP a chosen setting may cost the people who stay
LUCK = 0.02  # of mAP: two settings less than this apart are not told apart, and the one in force stays
RULE = (
    "of the settings that cost retained people at most 5 points of mAP and unseen people at most 10, all as means over "
    "the draws, the one with the lowest forget mAP; if every setting costs more, the one that costs least"
)


def trials_of(name: str) -> list[dict]:
    """Return the settings to try for one method: the product of its grid."""
    grid = METHODS[name].grid
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []


def tuned_methods() -> list[str]:
    """Return the names of the methods that have something to choose."""
    return [name for name, entry in METHODS.items() if entry.grid]


@functools.cache
def dev_world(world: Plan = TUNING, seed: int = 0) -> tuple[Splits, Recogniser]:
    """Return splits whose forget people may decide a setting, and the model that a plan starts from.

    Of drawn faces of another town, these are drawn by seed. Of others they are the dev-forget people, and
    one half of the unseen people: results can be reported of the other (--half-unseen).
    """
    torch.set_num_threads(1)  # one process per core is faster than two threads in one
    reported = world.faces_seed == USUAL.faces_seed
    return prepared(replace(world, dev=reported, half_unseen=reported), seed, {}, progress=False)


def run_trial(name: str, options: dict, seed: int = 0, world: Plan = TUNING) -> dict:
    """Unlearn once and return the scores that the choice rests on; raises CourseError."""
    splits, start = dev_world(world, seed)
    device = resolve_device(world.device)
    outcome = unlearn(name, start.model, start.head, splits, seed=seed, device=device, progress=False, **options)
    scores = evaluate(outcome.model, splits, outcome.trained_head, device=device).scores()
    pools = {
        pool: {key: round(scores[pool][key], 4) for key in ("r1", "map", "accuracy") if key in scores[pool]}
        for pool in ("forget", "retain", "unseen")
    }
    return {"images_processed": outcome.images_processed, "seconds": round(outcome.seconds, 1)} | pools


def key_of(name: str, options: dict, seed: int = 0, world: Plan = TUNING) -> dict:
    """Return the fields by which a stored trial is known to be this one."""
    return {"method": name, "options": options, "seed": seed} | started(world) | full_config(name, options)


def about_trial(name: str, options: dict, seed: int = 0, world: Plan = TUNING) -> dict:
    """Return what a trial's row says of its faces and people."""
    return about(name, dev_world(world, seed)[0], world.root)


def mean_map(trials: Sequence[dict], pool: str) -> float:
    """Return the mAP of one pool, the mean over some trials."""
    return fmean(trial[pool]["map"] for trial in trials)


def excess(draws: Sequence[dict], start: Sequence[dict]) -> float:
    """Return by how much mAP a setting costs more than it may, 0 if it keeps within the limits."""
    drawn = start[0].get("dataset", USUAL.dataset) == USUAL.dataset
    limits = MAX_LOSS if drawn else {"unseen": MAX_LOSS["unseen"]}  # real faces' retained people are in every table
    return max(0.0, *(mean_map(start, pool) - mean_map(draws, pool) - limit for pool, limit in limits.items()))


def cost(*worlds: tuple[Sequence[dict], Sequence[dict]]) -> tuple[float, float]:
    """Return what a setting is ranked by, less is better: its worst excess in any world, its mean forget mAP over all.

    A world is the setting's trials there, one for each draw of people, and the original model's."""
    return max(excess(*world) for world in worlds), fmean(mean_map(draws, "forget") for draws, _ in worlds)


def choose(settings: Sequence[Sequence[dict]], start: Sequence[dict]) -> Sequence[dict]:
    """Return the trials of the chosen setting of one method, by the rule above; a setting of which a draw failed is
    not chosen. Raises CourseError if one failed of each.

    `settings` holds each setting's trials, one for each draw of people, and `start` the original model's.
    """
    done = [draws for draws in settings if not any("error" in trial for trial in draws)]
    if not done:
        bad = next(trial for trial in settings[0] if "error" in trial)
        raise CourseError(f"Every setting of '{bad['method']}' failed: {bad['error']}")
    return min(done, key=lambda draws: cost((draws, start)))


def ranked(name: str, *sweeps: dict) -> list[tuple[tuple[float, float], dict]]:
    """Return cost and settings of one method, the best first, by the rule over all worlds: those settings that every
    one of some sweeps tried on all its draws, none of which failed. Raises CourseError if there is none."""
    starts = [draws_of(sweep["trials"], "original", {}) for sweep in sweeps]
    found = []
    for options in trials_of(name):
        tried = [draws_of(sweep["trials"], name, options) for sweep in sweeps]
        done = all(start and len(draws) == len(start) for draws, start in zip(tried, starts, strict=True))
        if done and not any("error" in trial for draws in tried for trial in draws):
            found.append((cost(*zip(tried, starts, strict=True)), options))
    if not found:
        raise CourseError(f"No setting of '{name}' went well in all of these sweeps; run: python -m utils.sweep.")
    return sorted(found, key=lambda one: one[0])


def settings_for_all(name: str, *sweeps: dict) -> dict:
    """Return the settings of one method that the rule takes over the worlds of some sweeps together: those in force if
    luck alone tells them from the best, in what they cost too much and in what they leave; raises as `ranked`."""
    (best, options), *others = ranked(name, *sweeps)
    for own, known in others:
        if known == in_force(name) and all(mine < its + LUCK for mine, its in zip(own, best, strict=True)):
            return known
    return options


def settings_to_try(name: str, best: int = 0) -> list[dict]:
    """Return the grid of a method, or of it the `best` settings of the sweep on drawn faces and those in force."""
    if not best:
        return trials_of(name)
    tried = [options for _, options in ranked(name, read_sweep(OTHERS_FILE))[:best]]
    return [options for options in trials_of(name) if options in (*tried, in_force(name))]


def in_force(name: str) -> dict:
    """Return a method's settings of today, of those that its grid tries."""
    config = METHODS[name].config()
    return {key: getattr(config, key) for key in METHODS[name].grid}


def run_sweep(
    names: Sequence[str], out: Path, *, world: Plan = TUNING, draws: int = DRAWS, best: int = 0, **how: object
) -> dict:
    """Run the missing trials of some methods as `run_missing` does, draw by draw, write `out` after each, and choose.

    Raises CourseError.
    """
    draws, best = whole_number(draws, "draws", 1), whole_number(best, "best")
    for name in names:
        one_of(name, tuned_methods(), "method with a grid")
    trials = [("original", {}), *((name, options) for name in names for options in settings_to_try(name, best))]
    tasks = [(*trial, seed, world) for seed in range(draws) for trial in trials]
    wanted = [(task, key_of(*task)) for task in tasks]
    store = one_world(sweep_store(out), world)
    steps = {
        "describe": about_trial,
        "finish": sweep_object,
        "prepare": lambda tasks: dev_world(world),
        "desc": "trials",
    }
    refuse(run_missing(run_trial, wanted, store, **steps, **how)[1])
    return read_sweep(store.path)


def draws_of(trials: Sequence[dict], name: str, options: dict) -> list[dict]:
    """Return the trials of one setting, one for each draw of people."""
    return [trial for trial in trials if (trial["method"], trial["options"]) == (name, options)]


def sweep_object(trials: Sequence[dict]) -> dict:
    """Return what a sweep file holds: the rule, all trials in order, and the choice per method whose grid is done."""
    order = {name: place for place, name in enumerate(METHODS)}

    def place(trial: dict) -> tuple:
        return order.get(trial["method"], len(order)), json.dumps(trial["options"]), trial.get("seed", 0)

    trials = sorted(trials, key=place)
    start = [trial for trial in trials if trial["method"] == "original" and "error" not in trial]
    chosen = {}
    for name in dict.fromkeys(trial["method"] for trial in trials):
        grid = trials_of(name) if name in METHODS else []
        settings = [draws_of(trials, name, options) for options in grid]
        done = start and grid and all(len(draws) == len(start) for draws in settings)
        if done and any(all("error" not in trial for trial in draws) for draws in settings):
            chosen[name] = choose(settings, start)[0]["options"]
    return {"schema": SCHEMA, "rule": RULE, "trials": trials, "chosen": chosen}


def read_sweep(path: Path) -> dict:
    """Read a sweep file; raises CourseError if it is absent, damaged or of another schema."""
    return sweep_store(path).read()


def sweep_table(sweep: dict, names: Sequence[str] | None = None) -> str:
    """Return every setting as aligned text, the chosen ones marked: percent, mean ± half range over the draws."""
    header = ("", "method", "options", "forget R@1", "mAP", "retain R@1", "mAP", "unseen R@1", "mAP", "images")
    trials = [trial for trial in sweep["trials"] if not names or trial["method"] in (*names, "original")]
    settings = [draws for draws, _ in grouped(trials)]
    rows = []
    for draws in settings:
        first = draws[0]
        chosen = "*" if sweep["chosen"].get(first["method"]) == first["options"] else ""
        options = ", ".join(f"{key} {value}" for key, value in first["options"].items())
        scores = score_cells(draws, ((pool, key) for pool in ("forget", "retain", "unseen") for key in ("r1", "map")))
        rows.append((chosen, first["method"], options, *scores, f"{first.get('images_processed', 0):,}"))
    table = with_remarks([header, *rows], [remark(draws) for draws in settings])
    return table_with_people(table, trials, failed=sweep.get("failed", ()))


def in_force_table(drawn: dict, real: dict, names: Sequence[str], markdown: bool = False) -> str:
    """Return a row per method: what its settings in force leave and cost in the sweeps of drawn and of real faces, and
    the same of those that the rule would take for drawn faces alone.

    Lost: mAP of unseen people, in points, mean over the draws; a star where a limit is broken. Raises CourseError for a
    method of which no setting went well on drawn faces.
    """
    worlds = [(sweep["trials"], draws_of(sweep["trials"], "original", {})) for sweep in (drawn, real)]

    def cells(name: str, options: dict) -> list[str]:
        said = [", ".join(map(written, options.values()))]
        for trials, start in worlds:
            draws = draws_of(trials, name, options)
            if not draws or any("error" in trial for trial in draws):
                said += [remark(draws) or "not tried", ""]
                continue
            lost = 100 * (mean_map(start, "unseen") - mean_map(draws, "unseen"))
            said += [*score_cells(draws, [("forget", "map")]), f"{lost:.1f}{' *' * (excess(draws, start) > 0)}"]
        return said

    scores = ["drawn: forget mAP ↓", "lost ↓", "real: forget mAP ↓", "lost ↓"]
    rows = [["class", "method", "swept", "in force", *scores, "for drawn faces alone", *scores]]
    for name in sorted(names, key=by_kind):
        one_of(name, tuned_methods(), "method with a grid")
        own, alone = in_force(name), ranked(name, drawn)[0][1]
        other = ["the same", *[""] * len(scores)] if alone == own else cells(name, alone)
        rows.append([METHODS[name].kind, METHODS[name].title, ", ".join(own), *cells(name, own), *other])
    return text_table(rows, markdown)


def fixed_table(names: Sequence[str], markdown: bool = False) -> str:
    """Return a row per method: what its grid tries, and the settings of its own that nobody swept, as they stand."""
    shared = {field.name for field in fields(StepConfig)}
    rows = [["class", "method", "swept", "set once, never swept"]]
    for name in sorted(names, key=by_kind):
        entry = METHODS[one_of(name, tuned_methods(), "method with a grid")]
        config = entry.config()
        own = [
            field.name for field in fields(config) if field.name not in (*entry.grid, *getattr(config, "unused", ()))
        ]
        moved = [key for key in own if key not in shared or getattr(config, key) != getattr(StepConfig(), key)]
        kept = ", ".join(f"{key} {written(getattr(config, key))}" for key in moved)
        rows.append([entry.kind, entry.title, ", ".join(entry.grid), kept or "nothing"])
    return text_table(rows, markdown)


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    doc = f"{__doc__} The rule: {RULE}."
    parser = plan_parser("sweep", doc, ("methods", *ASKED), methods="all", faces_seed=None)
    parser.add_argument("--draws", type=int, default=DRAWS, metavar="K", help="sets of people that each trial forgets")
    parser.add_argument(
        "--best",
        type=int,
        default=0,
        metavar="K",
        help="only try the K best settings on drawn faces, and those in force",
    )
    parser.add_argument("--fixed", action="store_true", help="only print which settings were never swept")
    parser.add_argument(
        "--in-force", action="store_true", help="only print what today's settings do in both of the course's sweeps"
    )
    args = parser.parse_args(arguments)
    names = tuned_methods() if args.methods == "all" else list(parse_methods(args.methods))
    if args.fixed:
        print(fixed_table(names, args.markdown))
        return 0
    if args.in_force:
        if args.out:
            raise CourseError("--in-force reads the course's own two sweeps: leave --out out.")
        print(in_force_table(read_sweep(OTHERS_FILE), read_sweep(REAL_FILE), names, args.markdown))
        return 0
    path, asked = file_of(args, "sweep"), {"world": world_of(args), "draws": args.draws, "best": args.best}
    sweep = read_sweep(path) if args.table else run_sweep(names, path, **asked, **how_to_run(args))
    print(sweep_table(sweep, names))
    print(f"* chosen: {RULE}")
    return 0
