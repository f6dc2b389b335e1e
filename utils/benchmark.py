"""Every method, on every data set and seed you name, into one results.json: `python -m utils.benchmark --help`."""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import psutil
import torch

from .backbones import BACKBONES, PRETRAINED
from .datasets import DATASETS, load_faces
from .retrieval import Examination, examine
from .settings import BUILD_DIR, PROFILES, REPO_ROOT, CourseError, atomic_path, one_of, progress_bar, resolve_device
from .splits import Splits, make_splits
from .training import Recogniser, TrainConfig, load_or_train
from .unlearning import METHODS, Unlearned, make_config, profile_options, unlearn

SCHEMA = 1
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
REFERENCES = ("original", "retrain")
# what two runs must share to be told apart by their seed alone
DATA = ("dataset", "fingerprint", "image_size", "n_forget", "dev")
SETTING = (*DATA, "backbone", "pretrained", "train", "profile", "config")


@dataclass(frozen=True)
class Plan:
    """What one benchmark call runs: the same names are the flags of the command and the parameters of notebook 09."""

    dataset: str = "synthetic"
    root: str = ""
    backbone: str = "mini"
    pretrained: str = "auto"
    train_epochs: int = 0
    methods: tuple[str, ...] = ("original", "retrain", "random_labels", "gradient_ascent", "dispersion")
    forget: int = 10
    forget_ids: str = ""
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
    if plan.seeds < 1 or plan.forget < 1:
        raise CourseError(f"--seeds and --forget must be at least 1, not {plan.seeds} and {plan.forget}.")
    if min(plan.seed, plan.train_epochs, plan.image_size, plan.max_identities) < 0:
        raise CourseError("--seed, --train-epochs, --image-size and --max-identities must not be negative.")
    if plan.backbone == "mini" and plan.pretrained not in ("auto", "none"):
        raise CourseError(f"The mini backbone has no '{plan.pretrained}' weights; use --pretrained auto or none.")
    resolve_device(plan.device)


def run_benchmark(plan: Plan, out: Path, *, fresh: bool = False, progress: bool = True) -> dict:
    """Run every method and seed of a plan, write `out` after each run, and return the plan's runs.

    Runs that `out` already holds, made with the same settings and code, are not repeated unless `fresh`; runs of other
    plans stay in the file. The original and the retrained model always take part. Raises CourseError. Notebook 08.
    """
    check_plan(plan)
    results = {"schema": SCHEMA, "environment": environment(plan), "runs": []}
    if out.is_file() and not fresh:
        results["runs"] = read_results(out)["runs"]
    size = face_size(plan)
    out.parent.mkdir(parents=True, exist_ok=True)
    faces = load_faces(
        plan.dataset,
        plan.root or None,
        image_size=size,
        device=plan.device,
        progress=progress,
        max_identities=plan.max_identities or None,
    )
    methods = dict.fromkeys((*references(plan), *(name for name in plan.methods if name not in REFERENCES)))
    bar = progress_bar(desc="benchmark", total=plan.seeds * len(methods), enabled=progress)
    wanted = []
    for seed in range(plan.seed, plan.seed + plan.seeds):
        splits = make_splits(faces, n_forget=plan.forget, forget_ids=plan.forget_ids or None, seed=seed)
        splits = splits.swap_dev() if plan.dev else splits
        recogniser = None
        for name in methods:
            bar.set_postfix_str(f"{name}, seed {seed}")
            identity = run_identity(plan, splits, name, seed)
            wanted.append(identity)
            if not any(identity.items() <= run.items() for run in results["runs"]):
                recogniser = recogniser or original_recogniser(plan, splits, progress)
                run = identity | one_run(plan, splits, recogniser, name, seed, progress)[-1]
                results["runs"] = [*without_earlier(results["runs"], identity), without_nan(run)]
                write_results(out, results)
            bar.update()
    bar.close()
    write_results(out, results)
    mine = [run for identity in wanted for run in results["runs"] if identity.items() <= run.items()]
    return results | {"runs": mine}


def without_earlier(runs: list[dict], identity: dict) -> list[dict]:
    """Return the runs less those that differ from `identity` in nothing but the code they were made with."""
    same = {key: value for key, value in identity.items() if key != "code"}
    return [run for run in runs if not same.items() <= run.items()]


def references(plan: Plan) -> tuple[str, ...]:
    """Return the yardsticks of a plan: weights pretrained elsewhere cannot be retrained without somebody."""
    elsewhere = plan.backbone == "facenet" and plan.pretrained != "none"
    return ("original",) if elsewhere else REFERENCES


def face_size(plan: Plan) -> int:
    """Return the side of the face crops in pixels: as given, or what the backbone wants."""
    return plan.image_size or {"mini": 64, "facenet": 160}[plan.backbone]


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
    faces = splits.faces
    return {
        "dataset": faces.name,
        "fingerprint": faces.fingerprint,
        "image_size": faces.image_size,
        "backbone": plan.backbone,
        "pretrained": plan.pretrained,
        "train": asdict(train_config(plan)),
        "method": name,
        "seed": seed,
        "profile": plan.profile,
        "dev": plan.dev,
        "n_identities": splits.n_identities,
        "n_forget": len(splits.forget),
        "forget_ids": [faces.identities[i] for i in splits.forget],
        "config": asdict(make_config(name, method_options(plan, name))),
        "code": code_version(name),
    }


def code_version(name: str) -> str:
    """Return a short hash of the code, less comments and docstrings, that a method's results depend on.

    A changed method is thus run again, and a reworded one or another method's change is not.
    """
    folder = Path(__file__).parent
    names = ("backbones", "heads", "splits", "training", "cosines", "verification", "retrieval", "dispersion")
    sources = [folder / f"{name}.py" for name in names] + method_files(METHODS[name].run.__module__)
    return hashlib.sha256("".join(map(code_of, sources)).encode()).hexdigest()[:12]


def method_files(module: str) -> list[Path]:
    """Return the files of the unlearning package that a method's module is made of: its own, and what it imports."""
    folder, found, waiting = Path(__file__).parent / "unlearning", [], [module.rpartition(".")[-1]]
    while waiting:
        path = folder / f"{waiting.pop()}.py"
        if path in found or not path.is_file():
            continue
        found.append(path)
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        waiting += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1]
    return sorted(found)


def code_of(path: Path) -> str:
    """Return a module's syntax tree as text, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


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
    }
    return outcome, examination, row


def run_method(
    plan: Plan, splits: Splits, recogniser: Recogniser, name: str, out: Path, progress: bool = True
) -> tuple[Unlearned, Examination]:
    """Unlearn once with a plan's settings and its first seed, and note the scores in `out` as the benchmark would.

    For looking at what a method did, not only at its scores; `splits` and `recogniser` are the plan's own. Raises
    CourseError. Introduced in notebook 05.
    """
    check_plan(plan)
    outcome, examination, row = one_run(plan, splits, recogniser, name, plan.seed, progress)
    results = {"schema": SCHEMA, "environment": environment(plan), "runs": []}
    if out.is_file():
        results["runs"] = read_results(out)["runs"]
    identity = run_identity(plan, splits, name, plan.seed)
    results["runs"] = [*without_earlier(results["runs"], identity), without_nan(identity | row)]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_results(out, results)
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
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPO_ROOT, capture_output=True, text=True, check=False)
        commit = git.stdout.strip() or "unknown"
    except OSError:  # no git here
        commit = "unknown"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(resolve_device(plan.device)),
        "threads": torch.get_num_threads(),
        "commit": commit,
    }


def read_results(path: Path) -> dict:
    """Read a results file; raises CourseError if it is absent, damaged or of another schema."""
    try:
        results = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise CourseError(f"There are no results at {path}; run: python -m utils.benchmark --out {path}.") from error
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} is not a results file ({error}); move it away or add --fresh.") from error
    known = isinstance(results, dict) and results.get("schema") == SCHEMA and isinstance(results.get("runs"), list)
    if not known:
        raise CourseError(f"{path} is not a results file of schema {SCHEMA}; move it away or add --fresh.")
    return results


def write_results(path: Path, results: dict) -> None:
    """Write a results file in one piece; NaN, which JSON does not know, becomes null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(without_nan(results), indent=1, allow_nan=False) + "\n")


def without_nan(value: object) -> object:
    """Return a copy of nested dicts and lists in which NaN is None."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def table_rows(results: dict) -> list[list[str]]:
    """Return the cells of the summary: a row per data set and method, mean over seeds, with the spread if several."""
    groups: dict[str, dict[int, dict]] = {}
    order = {name: place for place, name in enumerate(METHODS)}
    for run in sorted(results["runs"], key=lambda run: (run["dataset"], order.get(run["method"], len(order)))):
        setting = json.dumps([run["method"], *(run.get(key) for key in SETTING)], sort_keys=True)
        groups.setdefault(setting, {})[run["seed"]] = run  # a later run of the same seed, after a change of code, wins
    rows = []
    for group in groups.values():
        runs = list(group.values())
        first, name = runs[0], runs[0]["method"]
        data = f"{first['dataset']} / {first['backbone']}" + (" (dev)" if first.get("dev") else "")
        cells = [data, str(first["n_forget"]), METHODS[name].title if name in METHODS else name]
        cells.append(percent([run["forget"].get("accuracy") for run in runs]))
        for pool in ("forget", "retain", "unseen"):
            cells += [percent([run[pool][score] for run in runs]) for score in ("r1", "map")]
        cells.append(f"{fmean(run['seconds'] for run in runs):.0f}")
        rows.append([*cells, f"{fmean(run['images_processed'] for run in runs):,.0f}"])
    return rows


HEADER = (
    "data / model", "forgotten", "method", "forget named ↓", "forget R@1 ↓", "forget mAP ↓",
    "retain R@1 ↑", "retain mAP ↑", "unseen R@1 ↑", "unseen mAP ↑", "seconds", "images",
)  # fmt: skip


def results_table(results: dict, markdown: bool = False, narrow: bool = False) -> str:
    """Return the summary of a results object as aligned text or Markdown; `narrow` leaves out data and price.

    Scores are percentages on held-out photos, the mean over seeds; "named" is the accuracy of the classification head,
    which nobody needs for a search. Introduced in notebook 05.
    """
    rows = [HEADER, *table_rows(results)]
    if narrow:
        rows = [row[2:-2] for row in rows]
    if markdown:
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def percent(values: Sequence[float | None]) -> str:
    """Return fractions as 'mean' or 'mean ± half range' in percent; a dash where there is no known value."""
    values = [value for value in values if value is not None and not math.isnan(value)]
    if not values:
        return "–"
    spread = 50 * (max(values) - min(values))
    return f"{100 * fmean(values):.1f}" + (f" ± {spread:.1f}" if len(values) > 1 else "")


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
    group.add_argument("--forget", type=int, default=plan.forget, metavar="N", help="forget N people drawn by the seed")
    group.add_argument("--forget-ids", default="", metavar="NAME,NAME", help="forget these people")
    add("--seed", type=int, default=plan.seed, metavar="S", help="the first seed")
    add("--seeds", type=int, default=plan.seeds, metavar="K", help="run K seeds, from the first one on")
    add("--dev", action="store_true", help="forget the dev-forget people instead: for choosing settings")
    add("--profile", default=plan.profile, metavar="NAME", help=f"one of: {', '.join(PROFILES)}")
    add("--device", default=plan.device, metavar="NAME", help="auto, cpu, cuda or mps")
    add("--image-size", type=int, default=0, metavar="PX", help="side of the face crops (0: what the backbone wants)")
    add("--max-identities", type=int, default=0, metavar="N", help="open the photos of N people only (0: of all)")
    add("--set", action="append", default=[], metavar="METHOD.KEY=VALUE", help="change one setting of one method")
    add("--out", type=Path, default=BUILD_DIR / "results.json", metavar="FILE", help="where results are kept")
    add("--fresh", action="store_true", help="forget earlier results in that file instead of resuming")
    add("--table", action="store_true", help="only print the table of an existing results file")
    add("--markdown", action="store_true", help="print the table as Markdown")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    args = make_parser().parse_args(arguments)
    try:
        if args.table:
            results = read_results(args.out)
        else:
            flags = {name: value for name, value in vars(args).items() if name in Plan.__dataclass_fields__}
            flags |= {"methods": parse_methods(args.methods), "options": tuple(map(parse_option, args.set))}
            plan = Plan(**flags)
            results = run_benchmark(plan, args.out, fresh=args.fresh, progress=not args.quiet)
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(results_table(results, markdown=args.markdown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
