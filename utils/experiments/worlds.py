"""The two tables that come with the course, of drawn and of real faces, method by method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from ..settings import CourseError
from ..unlearning.registry import METHODS
from .benchmark import read_results
from .plan import STORED
from .tables import by_setting

RESULTS, REAL = STORED / "synthetic_quick.json", STORED / "lfw_dlib.json"
SECOND = STORED / "synthetic_second_network.json"  # as RESULTS, from a network pretrained with --weights-seed 1
WORLDS = {"drawn faces": RESULTS, "real faces": REAL}
POOLS = ("forget", "retain", "unseen")


def runs_by_method(path: Path = RESULTS) -> dict[str, list[dict]]:
    """Return a file's runs by method, in the order of the tables, one for each seed; CourseError if a method was run in
    two settings, which nobody should average."""
    runs = [run for run in read_results(path)["runs"] if not run.get("dev") and "error" not in run]
    found = by_setting(sorted(runs, key=lambda run: run["seed"]))
    if mixed := [label for label, group in found.items() if label != group[0]["method"]]:
        raise CourseError(f"{path} holds several settings of one method: {', '.join(mixed[:4])}; keep one in it.")
    return {name: found[name] for name in METHODS if name in found}


def mean_scores(runs: Iterable[Mapping]) -> dict[str, dict[str, float]]:
    """Return each pool's scores, {pool: {score: share}}, the means over runs; what a run does not know is left out."""
    runs = list(runs)
    return {
        pool: {
            score: fmean(known)
            for score in runs[0][pool]
            if (known := [run[pool][score] for run in runs if isinstance(run[pool].get(score), int | float)])
        }
        for pool in POOLS
    }


def in_both_worlds(names: Iterable[str], worlds: Mapping[str, Path] = WORLDS) -> dict[str, dict[str, dict]]:
    """Return the stored mean scores of some methods, {world: {method: {pool: {score: share}}}}; a world lacks what was
    not run there, as the retrained model of a recogniser that others trained. Notebook 05."""
    names = list(names)
    stored = {world: runs_by_method(path) for world, path in worlds.items()}
    return {world: {name: mean_scores(runs[name]) for name in names if name in runs} for world, runs in stored.items()}
