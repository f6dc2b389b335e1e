"""What one benchmark call runs: data, model, methods, people, seeds; the flags of every command come from here."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..faces.datasets import DATASETS, load_faces
from ..faces.splits import Splits, make_splits
from ..models.backbones import BACKBONES, PRETRAINED
from ..models.checkpoints import Recogniser, TrainConfig
from ..models.training import load_or_train
from ..settings import BUILD_DIR, PROFILES, REPO_ROOT, CourseError, as_seed, one_of, resolve_device
from ..unlearning.registry import METHODS, make_config, profile_options
from .tables import percent as percent  # notebook 10 asks for it here

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", as_seed(self.seed))


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
    if min(plan.train_epochs, plan.image_size, plan.max_identities) < 0:
        raise CourseError("--train-epochs, --image-size and --max-identities must not be negative.")
    if plan.backbone == "mini" and plan.pretrained not in ("auto", "none"):
        raise CourseError(f"The mini backbone has no '{plan.pretrained}' weights; use --pretrained auto or none.")
    resolve_device(plan.device)


def open_splits(plan: Plan, seed: int, opened: dict, progress: bool) -> Splits:
    """Return a plan's splits for one seed; data sets already in `opened` are not opened again."""
    size, people = face_size(plan), plan.max_identities or None
    source = (plan.dataset, plan.root, size, people)
    if source not in opened:
        options = {"image_size": size, "device": plan.device, "progress": progress, "max_identities": people}
        opened[source] = load_faces(plan.dataset, plan.root or None, **options)
    splits = make_splits(opened[source], n_forget=plan.forget, forget_ids=plan.forget_ids, seed=seed)
    return splits.swap_dev() if plan.dev else splits


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
