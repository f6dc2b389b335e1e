"""The two tables that come with the course, of drawn and of real faces, method by method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from ..settings import CourseError
from ..unlearning.registry import METHODS, by_kind
from .benchmark import read_results
from .plan import STORED
from .tables import by_setting

RESULTS, REAL = STORED / "synthetic_quick.json", STORED / "lfw_dlib.json"
SECOND = STORED / "synthetic_second_network.json"  # as RESULTS, from a network pretrained with --weights-seed 1
WORLDS = {"drawn faces": RESULTS, "real faces": REAL}
POOLS = ("forget", "retain", "unseen")


def runs_by_method(path: Path = RESULTS) -> dict[str, list[dict]]:
    """Return a file's runs by method, in the order of the tables, one for each seed, what diverged among them;
    CourseError if a method was run in two settings, which nobody should average."""
    runs = [run for run in read_results(path)["runs"] if not run.get("dev")]
    found = by_setting(sorted(runs, key=lambda run: run["seed"]))
    if mixed := [label for label, group in found.items() if label != group[0]["method"]]:
        raise CourseError(f"{path} holds several settings of one method: {', '.join(mixed[:4])}; keep one in it.")
    return {name: found[name] for name in sorted(found, key=by_kind) if name in METHODS}


def done(runs: Iterable[Mapping]) -> list[Mapping]:
    """Return those runs that have a result."""
    return [run for run in runs if "error" not in run]


def never_failed(path: Path = RESULTS) -> dict[str, list[dict]]:
    """Return the runs of those methods that had a result with every seed: no figure shows a mean of what was left."""
    return {name: runs for name, runs in runs_by_method(path).items() if len(done(runs)) == len(runs)}


def mean_scores(runs: Iterable[Mapping]) -> dict[str, dict[str, float]]:
    """Return each pool's scores, {pool: {score: share}}, the means over runs; what a run does not know is left out.
    Of runs without a result there is nothing to return."""
    runs = done(runs)
    pools = POOLS if runs else ()
    return {
        pool: {
            score: fmean(known)
            for score in runs[0][pool]
            if (known := [run[pool][score] for run in runs if isinstance(run[pool].get(score), int | float)])
        }
        for pool in pools
    }


def in_both_worlds(names: Iterable[str], worlds: Mapping[str, Path] = WORLDS) -> dict[str, dict[str, dict]]:
    """Return the stored mean scores of some methods, {world: {method: {pool: {score: share}}}}; a world lacks what was
    not run there, as the retrained model of a recogniser that others trained, and what diverged. Notebook 05."""
    names = list(names)
    stored = {world: never_failed(path) for world, path in worlds.items()}
    return {world: {name: mean_scores(runs[name]) for name in names if name in runs} for world, runs in stored.items()}
