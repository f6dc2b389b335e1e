"""Several requests one after the other, the earlier people's photos gone: `python -m utils.sequence --help`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..faces.splits import Splits
from ..retrieval.evaluation import evaluate
from ..settings import CourseError, command, one_of, resolve_device
from ..unlearning.loop import unlearn
from ..unlearning.registry import METHODS, by_kind
from .benchmark import started
from .plan import (
    ASKED,
    STORED,
    USUAL,
    Plan,
    file_of,
    how_to_run,
    open_splits,
    original_recogniser,
    parse_methods,
    parse_numbers,
    plan_parser,
    world_of,
)
from .results import ResultStore, about, full_config
from .runner import refuse, run_missing
from .tables import grouped, percent, remark, table_with_people, with_remarks

SEQUENCE_FILE = STORED / "sequence.json"
sequence_store = functools.partial(ResultStore, name="sequence")
SIZES = (5, 5, 5)
COMPARED = ("random_labels", "esc", "dispersion", "dispersion_blends", "gather_scatter")


def requests_of(splits: Splits, sizes: Sequence[int]) -> list[Splits]:
    """Return one request after the other as splits: who asks now is the forget pool, who asked earlier has no photos.

    The people are those of `splits.forget`, in a random order of its seed; raises CourseError if they do not suffice.
    Introduced in notebook 09.
    """
    if min(sizes) < 1 or sum(sizes) != len(splits.forget):
        raise CourseError(f"Requests of {list(sizes)} people do not add up to the {len(splits.forget)} to forget.")
    people = np.random.default_rng(splits.seed).permutation(splits.forget).tolist()
    labels, found = np.asarray(splits.faces.labels), []
    for first, size in zip(np.cumsum([0, *sizes[:-1]]).tolist(), sizes, strict=True):
        now, earlier = people[first : first + size], people[:first]
        others = [person for person in people if person not in now]
        left = splits.train[~np.isin(labels[splits.train], earlier)]
        retain = tuple(sorted((*splits.retain, *others)))
        found.append(replace(splits, forget=tuple(sorted(now)), retain=retain, train=left))
    return found


def run_requests(name: str, sizes: tuple[int, ...], seed: int, world: Plan = USUAL) -> dict:
    """Answer requests one after the other with one method; return the mAP of every group after every request."""
    torch.set_num_threads(1)  # one process per core is faster than two threads in one
    splits, device = sequence_splits(sizes, seed, world), resolve_device(world.device)
    start = original_recogniser(world, splits, progress=False)
    requests = requests_of(splits, sizes)
    model, head, after = start.model, start.head, []
    for place in range(len(requests) + 1):
        view = evaluate(model, splits, head, device=device)
        found = view.retrieval("forget").per_identity()
        groups = [np.mean([found[person]["map"] for person in request.forget]) for request in requests]
        row = {"groups": [round(float(group), 4) for group in groups]}
        after.append(row | {pool: round(view.retrieval(pool).map, 4) for pool in ("retain", "unseen")})
        if place < len(requests):
            outcome = unlearn(name, model, head, requests[place], seed=seed, device=device, progress=False)
            model, head = outcome.model, outcome.head
    return {"after": after}


def sequence_splits(sizes: Sequence[int], seed: int, world: Plan = USUAL) -> Splits:
    """Return a plan's faces with all who will ask as the people to forget."""
    return open_splits(replace(world, forget=sum(sizes)), seed, {}, progress=False)


def first_model(sizes: Sequence[int], world: Plan) -> None:
    """Load or train the original model once, so that no two worker processes train the same one side by side."""
    original_recogniser(world, sequence_splits(sizes, 0, world), progress=False)


def about_requests(name: str, sizes: tuple[int, ...], seed: int, world: Plan = USUAL) -> dict:
    """Return what a run's row says of its faces, and who asked in each group."""
    splits = sequence_splits(sizes, seed, world)
    names = splits.faces.identities
    groups = [[names[label] for label in request.forget] for request in requests_of(splits, sizes)]
    return about(name, splits, world.root) | {"forget_ids": groups}


def key_of(name: str, sizes: Sequence[int], seed: int, world: Plan = USUAL) -> dict:
    """Return the fields by which a stored run is known to be this one."""
    who = {"method": name, "sizes": list(sizes), "seed": seed, "half_unseen": world.half_unseen}
    return who | started(world) | full_config(name)


def run_sequence(
    names: Sequence[str],
    out: Path,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: int = 3,
    world: Plan = USUAL,
    **how: object,
) -> list[dict]:
    """Run what `out` does not hold yet as `run_missing` does, write it after each one, and return the runs in order.

    Raises CourseError. Introduced in notebook 09.
    """
    for name in names:
        one_of(name, METHODS, "method")
    tasks = [(name, tuple(sizes), seed, world) for name in names for seed in range(seeds)]
    wanted, store = [(task, key_of(*task)) for task in tasks], sequence_store(out).checked()
    steps = {"describe": about_requests, "prepare": lambda tasks: first_model(sizes, world), "desc": "requests"}
    rows, failed = run_missing(run_requests, wanted, store, **steps, **how)
    refuse(failed)
    return rows


def read_sequence(path: Path = SEQUENCE_FILE) -> list[dict]:
    """Read the runs of a sequence file; raises CourseError if it is absent, damaged or of another schema."""
    return sequence_store(path).read()["runs"]


def sequence_table(runs: Sequence[dict], markdown: bool = False) -> str:
    """Return mAP by group and request as text, in percent: held-out photos, mean ± half range over the seeds.

    Introduced in notebook 09.
    """
    most = max((len(run["sizes"]) for run in runs), default=0)
    sizes = {str(run["sizes"]): run["sizes"] for run in runs}
    titles = [
        f"group {place + 1}" + (f" ({runs[0]['sizes'][place]})" if len(sizes) == 1 else "") for place in range(most)
    ]
    rows, remarks = [["class", "method", "requests", *titles, "retain", "unseen"]], []
    for group, note in grouped(sorted(runs, key=lambda run: (by_kind(run["method"]), run["seed"]))):
        name, done = group[0]["method"], [run["after"] for run in group if "after" in run]
        for place in range(len(group[0]["sizes"]) + 1 if done else 1):
            steps = [after[place] for after in done]
            cells = [
                percent([step["groups"][number] for step in steps if number < len(step["groups"])])
                for number in range(most)
            ]
            cells += [percent([step[pool] for step in steps]) for pool in ("retain", "unseen")]
            known = METHODS.get(name)
            rows.append([known.kind if known else "–", known.title if known else name, str(place), *cells])
            remarks.append(remark(group, note))
    return table_with_people(with_remarks(rows, remarks), runs, markdown)


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    names = ("methods", "seeds", "half_unseen", *ASKED)
    parser = plan_parser("sequence", __doc__, names, methods=COMPARED, seeds=3)
    sizes = ",".join(map(str, SIZES))
    parser.add_argument("--sizes", default=sizes, metavar="N,M", help="how many people ask, request by request")
    args = parser.parse_args(arguments)
    path = file_of(args, "sequence")
    if args.table:
        runs = read_sequence(path)
    else:
        world = replace(world_of(args), half_unseen=args.half_unseen)
        asked = {"sizes": parse_numbers(args.sizes, "--sizes"), "seeds": args.seeds, "world": world}
        runs = run_sequence(parse_methods(args.methods), path, **asked, **how_to_run(args))
    print(sequence_table(runs, args.markdown))
    return 0
