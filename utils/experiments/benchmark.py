"""Every method, on every data set and seed you name, into one results.json: `python -m utils.benchmark --help`."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import psutil
import torch

from ..faces.splits import Splits
from ..faces.synthetic.dataset import fingerprint_of
from ..models.backbones import FaceBackbone
from ..models.checkpoints import Recogniser, embedded_models, load_recogniser, recipe_key, recipe_of
from ..models.embedding import embed, uncentred
from ..retrieval.evaluation import Evaluation, evaluate, held_out_photos, order_kept
from ..settings import BUILD_DIR, MODEL_DIR, CourseError, command, resolve_device
from ..unlearning.loop import Unlearned, unlearn, without_their_rows
from ..unlearning.registry import METHODS, by_kind, make_config
from .plan import (
    DATA,
    FLAGS,
    REFERENCES,
    STORED,
    USUAL,
    Plan,
    check_plan,
    how_to_run,
    method_options,
    open_splits,
    parse_methods,
    plan_parser,
    plans_of,
    prepared,
    references,
    started_from,
    train_config,
)
from .results import SCHEMA, ResultStore, about, complete, git_state
from .runner import refuse, run_missing
from .tables import grouped, remark, score_cells, table_with_people, with_remarks

DRAWN = {"dataset": "synthetic", "fingerprint": fingerprint_of(0), "image_size": 64, "n_identities": 180}


def run_benchmark(plan: Plan, out: Path, *, fresh: bool = False, progress: bool = True) -> dict:
    """Run every method and seed of a plan, write `out` after each run, and return the plan's runs.

    Runs that `out` already holds, made with the same data and settings, are not repeated unless `fresh`; runs of other
    plans stay in the file. The original and the retrained model always take part. Raises CourseError. Notebook 08.
    """
    return run_plans([plan], out, fresh=fresh, progress=progress)


def run_plans(plans: Sequence[Plan], out: Path, *, jobs: int = 1, fresh: bool = False, progress: bool = True) -> dict:
    """Run several plans as `run_benchmark` runs one, `jobs` runs at a time, and return all their runs.

    A run that fails is named in "failed", and the others go on. Introduced in notebook 09.
    """
    for plan in plans:
        check_plan(plan)
    store, opened = ResultStore(out).checked(), {}  # data sets and models, shared by the runs of this process
    wanted = [run for plan in plans for run in runs_of(plan, with_references(plan), opened, progress)]
    if jobs > 1:
        wanted.sort(key=lambda run: run[0][1] != "retrain")  # the longest first: nobody should wait for them alone
    function = worker_run if jobs > 1 else partial(fresh_run, opened, progress)
    prepare = partial(original_models, opened, progress)
    how = {"desc": "benchmark", "prepare": prepare, "jobs": jobs, "fresh": fresh, "progress": progress}
    return run_and_keep(function, wanted, store, plans[0], opened, **how)


def run_and_keep(
    function: Callable[..., dict], wanted: Sequence[tuple], store: ResultStore, plan: Plan, opened: dict, **how: object
) -> dict:
    """Do what is missing of the wanted runs of some plans as `run_missing` does; return a file's content with them."""
    finish = partial(content_of, environment(plan))
    describe = partial(about_run, opened, how["progress"])
    runs, failed = run_missing(function, wanted, store, finish=finish, describe=describe, **how)
    return finish(runs) | ({"failed": failed} if failed else {})


def content_of(environment: dict, runs: list[dict]) -> dict:
    """Return the content of a results file: its runs, and what the latest of them was measured with."""
    return {"schema": SCHEMA, "environment": environment, "runs": runs}


def with_references(plan: Plan) -> list[str]:
    """Return the methods of a plan, the yardsticks first."""
    return [*references(plan), *(name for name in dict.fromkeys(plan.methods) if name not in REFERENCES)]


def runs_of(plan: Plan, methods: Iterable[str], opened: dict, progress: bool) -> list[tuple[tuple, dict]]:
    """Return (plan, method, seed) and the identity of every run of some methods, seed by seed."""
    seeds = range(plan.seed, plan.seed + plan.seeds)
    splits = {seed: open_splits(plan, seed, opened, progress) for seed in seeds}
    return [((plan, name, seed), run_identity(plan, splits[seed], name, seed)) for seed in seeds for name in methods]


def original_models(opened: dict, progress: bool, tasks: Sequence[tuple]) -> None:
    """Load or train the original models once, so that no two worker processes train the same one side by side."""
    for plan in dict.fromkeys(replace(plan, methods=(), options=()) for plan, *_ in tasks):
        prepared(plan, plan.seed, opened, progress)


def about_run(opened: dict, progress: bool, plan: Plan, name: str, seed: int) -> dict:
    """Return what a run's row says of its faces and people."""
    return about(name, open_splits(plan, seed, opened, progress), plan.root, plan.forget_ids is not None)


def fresh_run(opened: dict, progress: bool, plan: Plan, name: str, seed: int) -> dict:
    """Run one method once and return what was measured."""
    return one_run(plan, *prepared(plan, seed, opened, progress), name, seed, progress)[-1]


OPENED: dict = {}  # what a worker process has opened so far


def worker_run(plan: Plan, name: str, seed: int) -> dict:
    """Do `fresh_run` in a worker process, in silence."""
    return fresh_run(OPENED, False, plan, name, seed)


def run_identity(plan: Plan, splits: Splits, name: str, seed: int) -> dict:
    """Return the fields that tell one run from another; two runs that agree in them are the same run."""
    config = asdict(make_config(name, method_options(plan, name)))
    data = about(name, splits)
    return {key: data[key] for key in DATA} | {
        "asked": plan.forget_ids is not None,
        **started_from(plan),
        "method": name,
        "seed": seed,
        "profile": plan.profile,
        "dev": plan.dev,
        "half_unseen": plan.half_unseen,
        "config": config,
    }


@functools.cache
def started(world: Plan) -> dict:
    """Return by what each trial of a plan's faces and model is known; drawn faces are known before they are drawn."""
    usual = all(getattr(world, field) == getattr(USUAL, field) for field in ("dataset", "backbone", "max_identities"))
    drawn = DRAWN | {"fingerprint": fingerprint_of(world.faces_seed)}
    faces = drawn if usual else about("original", open_splits(world, 0, {}, progress=False))
    return {field: faces[field] for field in DRAWN} | started_from(world)


def one_world(store: ResultStore, world: Plan) -> ResultStore:
    """Return the store, checked; raises CourseError if it holds trials on other faces or of another network.

    A network that was trained otherwise is let in: its trials stand beside these under another key.
    """
    store, here = store.checked(), started(world)
    for row in map(complete, store.rows()):
        for field, value in here.items():
            if row[field] != value and field != "train":
                raise CourseError(
                    f"{store.path} holds trials of another {field} ({row[field]}, not {value}); "
                    "name another file for these (--out)."
                )
    return store


def unlearned(plan: Plan, splits: Splits, start: Recogniser, name: str, seed: int, progress: bool) -> Unlearned:
    """Unlearn once with a plan's settings, from a model with its head."""
    options = method_options(plan, name) | {"seed": seed, "device": resolve_device(plan.device), "progress": progress}
    return unlearn(name, start.model, start.head, splits, **options)


def run_recipe(plan: Plan, splits: Splits, name: str) -> dict:
    """Return everything that decides the model a plan's first run of a method ends with, as plain values."""
    recipe = recipe_of(splits, splits.trained, plan.backbone, "none", train_config(plan))
    run = run_identity(plan, splits, name, plan.seed)
    del run["half_unseen"]  # whom a search is about changes no weight
    return recipe | {"run": run}


def shipped_outcome(plan: Plan, splits: Splits, name: str) -> Unlearned | None:
    """Return what a plan's first run of a method ends with, where the course ships it, with the run's own seconds."""
    entry = embedded_models().get(recipe_key(run_recipe(plan, splits, name)))
    if entry is None:
        return None
    known, recipe = load_recogniser(MODEL_DIR / entry["file"], entry["sha256"])
    model, trained_head = (part.to(resolve_device(plan.device)) for part in (known.model, known.head))
    price = {"seconds": known.seconds, "images_processed": entry["images_processed"], "config": recipe["run"]["config"]}
    return Unlearned(model, without_their_rows(trained_head, splits), **price, trained_head=trained_head)


def one_run(
    plan: Plan,
    splits: Splits,
    recogniser: Recogniser,
    name: str,
    seed: int,
    progress: bool,
    known: Unlearned | None = None,
) -> tuple[Unlearned, Evaluation, dict]:
    """Unlearn once, evaluate the result on held-out photos, and return both with the measured half of a results row.

    A `known` outcome is evaluated as it is.
    """
    device = resolve_device(plan.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    outcome = known or unlearned(plan, splits, recogniser, name, seed, progress)
    evaluation = evaluate(outcome.model, splits, outcome.trained_head, device=device, progress=progress)
    before = evaluate(recogniser.model, splits, device=device, progress=progress)
    row = {
        "pretrain_seconds": round(recogniser.seconds, 1),
        "seconds": round(outcome.seconds, 2),
        "images_processed": outcome.images_processed,
        "peak_memory_mb": round(peak_memory_mb(device), 1),
        **evaluation.scores(),
        "forget_people": map_by_person(evaluation),
        "order_kept": round(order_kept(before, evaluation), 4),
    }
    if getattr(outcome.model, "card", FaceBackbone.card).centred:
        photos = held_out_photos(splits)
        points = embed(outcome.model, splits.faces, photos, device=device, progress=progress, normalised=False)
        row["uncentred"] = plain_scores(Evaluation.make(uncentred(points, outcome.model), photos, splits).scores())
    return outcome, evaluation, row


def plain_scores(scores: dict) -> dict[str, float]:
    """Return the scores of a search that leaves the centre out, under names such as 'forget_map'."""
    return {f"{pool}_{score}": scores[pool][score] for pool in POOLS for score in ("r1", "map", "tar")}


def map_by_person(evaluation: Evaluation) -> dict[str, float]:
    """Return the mAP of every forget person's own queries, by name: a mean hides who is still found."""
    names = evaluation.splits.faces.identities
    found = evaluation.retrieval("forget").per_identity() if len(evaluation.splits.photos("forget", "query")) else {}
    return {names[label]: round(scores["map"], 4) for label, scores in found.items()}


def run_method(
    plan: Plan,
    splits: Splits,
    recogniser: Recogniser,
    name: str,
    out: Path,
    progress: bool = True,
    known: Unlearned | None = None,
) -> tuple[Unlearned, Evaluation]:
    """Unlearn once with a plan's settings and its first seed, and note the scores in `out` as the benchmark would.

    A `known` outcome is not made again. For looking at what a method did, not only at its scores; `splits` and
    `recogniser` are the plan's own. Raises CourseError. Introduced in notebook 05.
    """
    check_plan(plan)
    outcome, evaluation, row = one_run(plan, splits, recogniser, name, plan.seed, progress, known)
    identity = run_identity(plan, splits, name, plan.seed)
    described = about(name, splits, plan.root, plan.forget_ids is not None)
    ResultStore(out).checked().add(identity | described | row, identity, partial(content_of, environment(plan)))
    return outcome, evaluation


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MB: of the device on a GPU, of this process so far on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows has no resource module
        return psutil.Process().memory_info().peak_wset / 2**20
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def environment(plan: Plan) -> dict:
    """Return what the numbers were measured with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(resolve_device(plan.device)),
        "threads": torch.get_num_threads(),
        "commit": git_state(),
    }


def results_at_hand(path: str = "", build: Path = BUILD_DIR, stored: Path = STORED) -> list[dict]:
    """Return the runs of a results file, or without one those of `make bench` if it was done, else the course's own.

    `make bench` counts as done when its file holds every method at ten people and at another number. Raises CourseError
    for a file that cannot be read. Introduced in notebook 09.
    """
    if path:
        return read_results(Path(path))["runs"]
    own = build / "results.json"
    runs = [run for run in read_results(own)["runs"] if not run.get("dev")] if own.is_file() else []
    numbers = {name: {run["n_forget"] for run in runs if run["method"] == name} for name in METHODS}
    if all({10} < found for found in numbers.values()):
        return runs
    return [
        run for name in ("synthetic_quick", "synthetic_sizes") for run in read_results(stored / f"{name}.json")["runs"]
    ]


def read_results(path: Path) -> dict:
    """Read a results file; raises CourseError if it is absent, damaged or of another schema."""
    return ResultStore(Path(path)).read()


def table_place(run: dict) -> tuple:
    """Return where a run stands in a table: by data set, number forgotten, class of method, method, then seed."""
    return run["dataset"], run["n_forget"], by_kind(run["method"]), run["seed"]


def table_rows(results: dict, narrow: bool = False) -> tuple[list[list[str]], list[str]]:
    """Return the cells of the summary, a row per method and setting, mean over seeds with the spread; and remarks."""
    runs = sorted(results["runs"], key=table_place)
    plain = has_plain(runs)
    rows, remarks = [], []
    for group, note in grouped(runs, () if narrow else ("dataset", "backbone", "dev", "n_forget")):
        first, name = group[0], group[0]["method"]
        data = f"{first['dataset']} / {first['backbone']}" + (" (dev)" if first.get("dev") else "")
        known = METHODS.get(name)
        cells = [data, str(first["n_forget"]), known.kind if known else "–", known.title if known else name]
        cells += score_cells(group, COLUMNS + (PLAIN if plain else ()))
        prices = [[run[key] for run in group if key in run] for key in ("seconds", "images_processed")]
        rows.append([*cells, *(f"{fmean(price):,.0f}" if price else "–" for price in prices)])
        remarks.append(remark(group, note))
    return rows, remarks


POOLS = ("forget", "retain", "unseen")
COLUMNS = (("forget", "accuracy"), *((pool, score) for pool in POOLS for score in ("r1", "map")))
PLAIN = (("uncentred", "forget_r1"), ("uncentred", "forget_map"))  # of models that a searcher may use either way
PLAIN_HEADER = ("forget R@1 uncentred ↓", "forget mAP uncentred ↓")
HEADER = (
    "data / model", "forgotten", "class", "method", "forget accuracy ↓", "forget R@1 ↓", "forget mAP ↓",
    "retain R@1 ↑", "retain mAP ↑", "unseen R@1 ↑", "unseen mAP ↑", "seconds", "images",
)  # fmt: skip


def has_plain(runs: Iterable[dict]) -> bool:
    """Say whether any run was scored without a centre, too."""
    return any("uncentred" in run for run in runs)


def results_table(results: dict, markdown: bool = False, narrow: bool = False) -> str:
    """Return the summary of a results object as aligned text or Markdown; `narrow` leaves out data and price.

    Scores are percentages on held-out photos, the mean over seeds; "named" is the accuracy of the classification head,
    which nobody needs for a search. Introduced in notebook 05.
    """
    rows, remarks = table_rows(results, narrow)
    header = (*HEADER[:-2], *(PLAIN_HEADER if has_plain(results["runs"]) else ()), *HEADER[-2:])
    rows = [row[3:-2] if narrow else row for row in (header, *rows)]
    return table_with_people(with_remarks(rows, remarks), results["runs"], markdown, results.get("failed", ()))


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    parser = plan_parser("benchmark", __doc__, FLAGS, out=BUILD_DIR / "results.json")
    args = parser.parse_args(arguments)
    if args.table:
        results = read_results(args.out)
        if args.methods != parser.get_default("methods"):
            chosen = parse_methods(args.methods)
            results["runs"] = [run for run in results["runs"] if run["method"] in chosen]
    else:
        results = run_plans(plans_of(args), args.out, **how_to_run(args))
    print(results_table(results, markdown=args.markdown))
    if not args.table:
        refuse(results.get("failed", ()))
    return 0
