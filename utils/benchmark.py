"""Every method, on every data set and seed you name, into one results.json: `python -m utils.benchmark --help`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import psutil
import torch

from .backbones import BACKBONES, PRETRAINED
from .datasets import DATASETS, load_faces
from .results import (
    SCHEMA,
    ResultStore,
    about,
    git_state,
    grouped,
    remark,
    score_cells,
    table_with_people,
    with_remarks,
)
from .results import percent as percent  # notebook 10 asks for it here
from .retrieval import Examination, examine
from .runner import refuse, run_missing
from .settings import BUILD_DIR, PROFILES, REPO_ROOT, CourseError, command, one_of, resolve_device
from .splits import Splits, make_splits
from .training import Recogniser, TrainConfig, load_or_train
from .unlearning import METHODS, Unlearned, make_config, profile_options, unlearn

STORED = REPO_ROOT / "data" / "results"  # what the course's own runs gave
REFERENCES = ("original", "retrain")
DATA = ("dataset", "fingerprint", "image_size", "n_identities", "n_forget", "forget_ids")  # the faces, in a run's key


@dataclass(frozen=True)
class Plan:
    """What one benchmark call runs: the same names are the flags of the command and the parameters of notebook 09."""

    dataset: str = "synthetic"
    root: str = ""
    backbone: str = "mini"
    pretrained: str = "auto"
    train_epochs: int = 0
    methods: tuple[str, ...] = ("original", "retrain", "random_labels", "gradient_ascent", "dispersion")
    forget: int | None = None  # None: ten, or a third of the trained people where they are few
    forget_ids: str | None = None  # None: drawn by the seed
    seed: int = 0
    seeds: int = 1
    dev: bool = False
    profile: str = "quick"
    device: str = "auto"
    image_size: int = 0
    max_identities: int = 0
    options: tuple[tuple[str, str, object], ...] = ()


def check_plan(plan: Plan) -> None:
    """Raise a CourseError for the first name or number in a plan that cannot work, before anything runs."""
    one_of(plan.dataset, DATASETS, "data set")
    one_of(plan.backbone, BACKBONES, "backbone")
    one_of(plan.pretrained, PRETRAINED, "pretrained weights")
    one_of(plan.profile, PROFILES, "profile")
    for name in plan.methods:
        one_of(name, METHODS, "method")
    for name, key, value in plan.options:
        one_of(name, METHODS, "method")
        make_config(name, {key: value})
    if plan.seeds < 1 or (plan.forget is not None and plan.forget < 1):
        raise CourseError(f"--seeds and --forget must be at least 1, not {plan.seeds} and {plan.forget}.")
    if min(plan.seed, plan.train_epochs, plan.image_size, plan.max_identities) < 0:
        raise CourseError("--seed, --train-epochs, --image-size and --max-identities must not be negative.")
    if plan.backbone == "mini" and plan.pretrained not in ("auto", "none"):
        raise CourseError(f"The mini backbone has no '{plan.pretrained}' weights; use --pretrained auto or none.")
    resolve_device(plan.device)


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
    store, finish = ResultStore(out).checked(), partial(file_of, environment(plans[0]))
    opened: dict = {}  # data sets and models, shared by the runs of this process
    wanted = [((plan, name, seed), key) for plan in plans for name, seed, key in runs_of(plan, opened, progress)]
    if jobs > 1:
        wanted.sort(key=lambda run: run[0][1] != "retrain")  # the longest first: nobody should wait for them alone
    steps = {"prepare": partial(original_models, opened, progress), "describe": partial(about_run, opened, progress)}
    function = worker_run if jobs > 1 else partial(fresh_run, opened, progress)
    options = {"jobs": jobs, "fresh": fresh, "finish": finish, "desc": "benchmark", "progress": progress}
    runs, failed = run_missing(function, wanted, store, **steps, **options)
    return finish(runs) | ({"failed": failed} if failed else {})


def file_of(environment: dict, runs: list[dict]) -> dict:
    """Return the content of a results file: its runs, and what the latest of them was measured with."""
    return {"schema": SCHEMA, "environment": environment, "runs": runs}


def runs_of(plan: Plan, opened: dict, progress: bool) -> list[tuple[str, int, dict]]:
    """Return method, seed and identity of every run of a plan, the yardsticks first."""
    methods = dict.fromkeys((*references(plan), *(name for name in plan.methods if name not in REFERENCES)))
    seeds = range(plan.seed, plan.seed + plan.seeds)
    splits = {seed: open_splits(plan, seed, opened, progress) for seed in seeds}
    return [(name, seed, run_identity(plan, splits[seed], name, seed)) for seed in seeds for name in methods]


def original_models(opened: dict, progress: bool, tasks: Sequence[tuple]) -> None:
    """Load or train the original models once, so that no two worker processes train the same one side by side."""
    for plan in dict.fromkeys(replace(plan, methods=(), options=()) for plan, *_ in tasks):
        original_recogniser(plan, open_splits(plan, plan.seed, opened, progress), progress)


def open_splits(plan: Plan, seed: int, opened: dict, progress: bool) -> Splits:
    """Return a plan's splits for one seed; data sets already in `opened` are not opened again."""
    size, people = face_size(plan), plan.max_identities or None
    source = (plan.dataset, plan.root, size, people)
    if source not in opened:
        options = {"image_size": size, "device": plan.device, "progress": progress, "max_identities": people}
        opened[source] = load_faces(plan.dataset, plan.root or None, **options)
    splits = make_splits(opened[source], n_forget=plan.forget, forget_ids=plan.forget_ids, seed=seed)
    return splits.swap_dev() if plan.dev else splits


def about_run(opened: dict, progress: bool, plan: Plan, name: str, seed: int) -> dict:
    """Return what a run's row says of its faces and people."""
    return about(name, open_splits(plan, seed, opened, progress), plan.root, plan.forget_ids is not None)


def fresh_run(opened: dict, progress: bool, plan: Plan, name: str, seed: int) -> dict:
    """Run one method once and return what was measured; the last original model is kept in `opened`."""
    splits = open_splits(plan, seed, opened, progress)
    key = (replace(plan, methods=(), options=()), seed)
    if opened.get("model", (None,))[0] != key:
        opened["model"] = (key, original_recogniser(plan, splits, progress))
    return one_run(plan, splits, opened["model"][1], name, seed, progress)[-1]


OPENED: dict = {}  # what a worker process has opened so far


def worker_run(plan: Plan, name: str, seed: int) -> dict:
    """Do `fresh_run` in a worker process, in silence."""
    return fresh_run(OPENED, False, plan, name, seed)


def references(plan: Plan) -> tuple[str, ...]:
    """Return the yardsticks of a plan: weights pretrained elsewhere cannot be retrained without somebody."""
    elsewhere = plan.backbone == "facenet" and plan.pretrained != "none"
    return ("original",) if elsewhere else REFERENCES


def face_size(plan: Plan) -> int:
    """Return the side of the face crops in pixels: as given, or what the backbone wants."""
    return plan.image_size or {"mini": 64, "facenet": 160}[one_of(plan.backbone, BACKBONES, "backbone")]


def train_config(plan: Plan) -> TrainConfig:
    """Return the pretraining recipe of a plan."""
    return TrainConfig(epochs=plan.train_epochs) if plan.train_epochs else TrainConfig()


def original_recogniser(plan: Plan, splits: Splits, progress: bool) -> Recogniser:
    """Load or train the model that the methods start from."""
    return load_or_train(
        splits,
        backbone=plan.backbone,
        pretrained=plan.pretrained,
        config=train_config(plan),
        device=plan.device,
        progress=progress,
    )


def method_options(plan: Plan, name: str) -> dict:
    """Return a method's settings in this plan: its profile's, the pretraining recipe for retrain, then `--set`."""
    options = asdict(train_config(plan)) if name == "retrain" else profile_options(name, plan.profile)
    return options | {key: value for method, key, value in plan.options if method == name}


def run_identity(plan: Plan, splits: Splits, name: str, seed: int) -> dict:
    """Return the fields that tell one run from another; two runs that agree in them are the same run."""
    data = about(name, splits)
    return {key: data[key] for key in DATA} | {
        "backbone": plan.backbone,
        "pretrained": plan.pretrained,
        "train": asdict(train_config(plan)),
        "method": name,
        "seed": seed,
        "profile": plan.profile,
        "dev": plan.dev,
        "config": asdict(make_config(name, method_options(plan, name))),
    }


def one_run(
    plan: Plan, splits: Splits, recogniser: Recogniser, name: str, seed: int, progress: bool
) -> tuple[Unlearned, Examination, dict]:
    """Unlearn once, examine the result on held-out photos, and return both with the measured half of a results row."""
    device = resolve_device(plan.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    outcome = unlearn(
        name,
        recogniser.model,
        recogniser.head,
        splits,
        seed=seed,
        device=device,
        progress=progress,
        **method_options(plan, name),
    )
    examination = examine(outcome.model, splits, outcome.head, device=device, progress=progress)
    row = {
        "gallery_size": len(splits.gallery),
        "pretrain_seconds": round(recogniser.seconds, 1),
        "seconds": round(outcome.seconds, 2),
        "images_processed": outcome.images_processed,
        "peak_memory_mb": round(peak_memory_mb(device), 1),
        **examination.scores(),
        "forget_people": map_by_person(examination),
    }
    return outcome, examination, row


def map_by_person(examination: Examination) -> dict[str, float]:
    """Return the mAP of every forget person's own queries, by name: a mean hides who is still found."""
    names = examination.splits.faces.identities
    found = examination.retrieval("forget").per_identity() if len(examination.splits.photos("forget", "query")) else {}
    return {names[label]: round(scores["map"], 4) for label, scores in found.items()}


def run_method(
    plan: Plan, splits: Splits, recogniser: Recogniser, name: str, out: Path, progress: bool = True
) -> tuple[Unlearned, Examination]:
    """Unlearn once with a plan's settings and its first seed, and note the scores in `out` as the benchmark would.

    For looking at what a method did, not only at its scores; `splits` and `recogniser` are the plan's own. Raises
    CourseError. Introduced in notebook 05.
    """
    check_plan(plan)
    outcome, examination, row = one_run(plan, splits, recogniser, name, plan.seed, progress)
    identity = run_identity(plan, splits, name, plan.seed)
    described = about(name, splits, plan.root, plan.forget_ids is not None)
    ResultStore(out).checked().add(identity | described | row, identity, partial(file_of, environment(plan)))
    return outcome, examination


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


def table_place(run: dict, order: dict[str, int]) -> tuple:
    """Return where a run stands in a table: by data set, number forgotten, method, then seed."""
    return run["dataset"], run["n_forget"], order.get(run["method"], len(order)), run["seed"]


def table_rows(results: dict, narrow: bool = False) -> tuple[list[list[str]], list[str]]:
    """Return the cells of the summary, a row per method and setting, mean over seeds with the spread; and remarks."""
    order = {name: place for place, name in enumerate(METHODS)}
    runs = sorted(results["runs"], key=lambda run: table_place(run, order))
    rows, remarks = [], []
    for group, note in grouped(runs, () if narrow else ("dataset", "backbone", "dev", "n_forget")):
        first, name = group[0], group[0]["method"]
        data = f"{first['dataset']} / {first['backbone']}" + (" (dev)" if first.get("dev") else "")
        cells = [data, str(first["n_forget"]), METHODS[name].title if name in METHODS else name]
        cells += score_cells(group, COLUMNS)
        prices = [[run[key] for run in group if key in run] for key in ("seconds", "images_processed")]
        rows.append([*cells, *(f"{fmean(price):,.0f}" if price else "–" for price in prices)])
        remarks.append(remark(group, note))
    return rows, remarks


POOLS = ("forget", "retain", "unseen")
COLUMNS = (("forget", "accuracy"), *((pool, score) for pool in POOLS for score in ("r1", "map")))
HEADER = (
    "data / model", "forgotten", "method", "forget named ↓", "forget R@1 ↓", "forget mAP ↓",
    "retain R@1 ↑", "retain mAP ↑", "unseen R@1 ↑", "unseen mAP ↑", "seconds", "images",
)  # fmt: skip


def results_table(results: dict, markdown: bool = False, narrow: bool = False) -> str:
    """Return the summary of a results object as aligned text or Markdown; `narrow` leaves out data and price.

    Scores are percentages on held-out photos, the mean over seeds; "named" is the accuracy of the classification head,
    which nobody needs for a search. Introduced in notebook 05.
    """
    rows, remarks = table_rows(results, narrow)
    rows = [row[2:-2] if narrow else row for row in (HEADER, *rows)]
    return table_with_people(with_remarks(rows, remarks), results["runs"], markdown, results.get("failed", ()))


def parse_option(text: str) -> tuple[str, str, object]:
    """Turn 'method.key=value' into its parts, the value read as JSON; raises CourseError."""
    target, equals, value = text.partition("=")
    name, dot, key = target.partition(".")
    if not (equals and dot):
        raise CourseError(f"--set wants METHOD.KEY=VALUE, for example dispersion.steps=300, not '{text}'.")
    try:
        return name, key, json.loads(value)
    except json.JSONDecodeError:
        return name, key, value


def parse_methods(text: str) -> tuple[str, ...]:
    """Turn 'a,b,c' or 'all' into method names."""
    return tuple(METHODS) if text == "all" else tuple(part.strip() for part in text.split(",") if part.strip())


def parse_numbers(text: str) -> list[int]:
    """Turn '1,5,10' into numbers; raises CourseError."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise CourseError(f"--forget wants a number of people, or several as in 1,5,10, not '{text}'.") from error


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m utils.benchmark", description=__doc__)
    add = parser.add_argument
    plan = Plan()
    add("--dataset", default=plan.dataset, metavar="NAME", help=f"one of: {', '.join(DATASETS)}")
    add("--root", default="", metavar="DIR", help="folder of a data set of real faces")
    add("--backbone", default=plan.backbone, metavar="NAME", help=f"one of: {', '.join(BACKBONES)}")
    add("--pretrained", default=plan.pretrained, metavar="NAME", help=f"one of: {', '.join(PRETRAINED)}")
    add("--train-epochs", type=int, default=0, metavar="N", help="epochs of pretraining (0: the recipe's own)")
    add("--methods", default=",".join(plan.methods), metavar="A,B", help=f"'all', or some of: {', '.join(METHODS)}")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--forget", metavar="N,M", help="forget so many people, drawn by seed (10, or fewer of few)")
    group.add_argument("--forget-ids", metavar="NAME,NAME", help="forget these people (a label is written #7)")
    add("--seed", type=int, default=plan.seed, metavar="S", help="the first seed")
    add("--seeds", type=int, default=plan.seeds, metavar="K", help="run K seeds, from the first one on")
    add("--dev", action="store_true", help="forget the dev-forget people instead: for choosing settings")
    add("--profile", default=plan.profile, metavar="NAME", help=f"one of: {', '.join(PROFILES)}")
    add("--device", default=plan.device, metavar="NAME", help="auto, cpu, cuda or mps")
    add("--image-size", type=int, default=0, metavar="PX", help="side of the face crops (0: what the backbone wants)")
    add("--max-identities", type=int, default=0, metavar="N", help="open the photos of N people only (0: of all)")
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time, one core each")
    add("--set", action="append", default=[], metavar="METHOD.KEY=VALUE", help="change one setting of one method")
    add("--out", type=Path, default=BUILD_DIR / "results.json", metavar="FILE", help="where results are kept")
    add("--fresh", action="store_true", help="run these again though that file holds them; other runs in it stay")
    add("--table", action="store_true", help="only print the table of an existing results file, of --methods if given")
    add("--markdown", action="store_true", help="print the table as Markdown")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    args = make_parser().parse_args(arguments)
    if args.table:
        results = read_results(args.out)
        if args.methods != ",".join(Plan().methods):
            chosen = parse_methods(args.methods)
            results["runs"] = [run for run in results["runs"] if run["method"] in chosen]
    else:
        flags = {name: value for name, value in vars(args).items() if name in Plan.__dataclass_fields__}
        flags |= {"methods": parse_methods(args.methods), "options": tuple(map(parse_option, args.set))}
        numbers = [None] if args.forget is None else parse_numbers(args.forget)
        plans = [Plan(**flags | {"forget": number}) for number in numbers]
        results = run_plans(plans, args.out, jobs=args.jobs, fresh=args.fresh, progress=not args.quiet)
    print(results_table(results, markdown=args.markdown))
    if not args.table:
        refuse(results.get("failed", ()))
    return 0


if __name__ == "__main__":
    from utils.benchmark import main as run  # under its own name, by which workers find its functions

    sys.exit(run())
