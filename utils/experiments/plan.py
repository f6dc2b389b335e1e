"""What one benchmark call runs: data, model, methods, people, seeds; the flags of every command come from here."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from ..faces.datasets import DATASETS, load_faces
from ..faces.splits import HELD_OUT, Splits, make_splits
from ..models.backbones import BACKBONES, PRETRAINED, card_of
from ..models.checkpoints import Recogniser, TrainConfig, training_of
from ..models.training import load_or_train
from ..settings import BUILD_DIR, PROFILES, REPO_ROOT, CourseError, as_seed, one_of, resolve_device, suggest
from ..unlearning.registry import METHODS, make_config, profile_options

STORED = REPO_ROOT / "data" / "results"  # what the course's own runs gave
REFERENCES = ("original", "retrain")
DATA = (
    "dataset",
    "fingerprint",
    "image_size",
    "n_identities",
    "n_forget",
    "forget_ids",
    "held_out",
)  # the faces, in a run's key


def flag(default: object, text: str, metavar: str = "NAME", **options: object) -> object:
    """Return a field of the plan that is a flag of the commands, with what `--help` says of it."""
    return field(default=default, metadata={"help": text, "metavar": metavar} | options)


@dataclass(frozen=True)
class Plan:
    """What one benchmark call runs: the same names are the flags of the command and the parameters of notebook 09."""

    dataset: str = flag("synthetic", f"one of: {', '.join(DATASETS)}")
    root: str = flag("", "folder of a data set of real faces", "DIR")
    backbone: str = flag("mini", f"one of: {', '.join(BACKBONES)}, or file:PATH")
    pretrained: str = flag("auto", f"one of: {', '.join(PRETRAINED)}")
    train_epochs: int = flag(0, "epochs of pretraining (0: the recipe's own)", "N", type=int)
    weights_seed: int = flag(0, "seed of the random weights that pretraining starts from", "S", type=int)
    methods: tuple[str, ...] = flag(
        ("original", "retrain", "random_labels", "gradient_ascent", "dispersion"),
        f"'all', or some of: {', '.join(METHODS)}",
        "A,B",
    )
    forget: int | None = flag(None, "forget so many people, drawn by seed (10, or fewer of few)", "N,M")
    forget_ids: str | None = flag(None, "forget these people (a label is written #7)", "NAME,NAME")
    seed: int = flag(0, "the first seed", "S", type=int)
    seeds: int = flag(1, "run K seeds, from the first one on", "K", type=int)
    dev: bool = field(default=False, metadata={"help": "forget the dev-forget people instead: for choosing settings"})
    half_unseen: bool = field(
        default=False,
        metadata={"help": "search for every second unseen person only: the others decide settings (--dev)"},
    )
    profile: str = flag("quick", f"one of: {', '.join(PROFILES)}")
    device: str = flag("auto", "auto, cpu, cuda or mps")
    image_size: int = flag(0, "side of the face crops (0: what the backbone wants)", "PX", type=int)
    held_out: str = flag("auto", f"share of a trained person's photos to search with: auto, {', '.join(HELD_OUT)}")
    max_identities: int = flag(0, "open the photos of N people only (0: of all)", "N", type=int)
    faces_seed: int = flag(0, "seed of the drawn faces: another one draws other people", "S", type=int)
    options: tuple[tuple[str, str, object], ...] = ()

    def __post_init__(self) -> None:
        for name in ("seed", "weights_seed", "faces_seed"):
            object.__setattr__(self, name, as_seed(getattr(self, name)))


USUAL = Plan()  # the drawn faces and the embedded model
TUNING = replace(USUAL, faces_seed=1)  # people, and a model of them, in no comparison of methods

FLAGS = {known.name: {"default": known.default, **known.metadata} for known in fields(Plan) if known.metadata} | {
    "set": dict(
        action="append",
        default=[],
        metavar="METHOD.KEY=VALUE",
        help="change one setting of one method, or of all that use it",
    ),
    "out": dict(type=Path, metavar="FILE", help="where results are kept (in build/; for --table, the course's own)"),
    "jobs": dict(type=int, default=1, metavar="N", help="runs at a time, one core each"),
    "fresh": dict(default=False, help="run these again though that file holds them; other runs in it stay"),
    "table": dict(default=False, help="only print the table of an existing file"),
    "markdown": dict(default=False, help="print the table as Markdown"),
    "quiet": dict(default=False, help="no progress bars"),
}
RUNNING = ("out", "jobs", "fresh", "table", "quiet")  # what every command that keeps results takes
WORLD = (
    "dataset", "root", "backbone", "pretrained", "train_epochs", "weights_seed", "max_identities", "faces_seed",
    "device",
)  # fmt: skip
ASKED = (*WORLD, *RUNNING, "markdown")  # what trials and requests take


def plan_parser(prog: str, doc: str, names: Sequence[str], **defaults: object) -> argparse.ArgumentParser:
    """Return the command line of a command of the course: some of FLAGS by name, with defaults of its own."""
    shape = argparse.RawDescriptionHelpFormatter if "\n" in doc else argparse.HelpFormatter
    parser = argparse.ArgumentParser(prog=f"python -m utils.{prog}", description=doc, formatter_class=shape)
    people = parser.add_mutually_exclusive_group() if "forget_ids" in names else parser
    for name in names:
        options = FLAGS[name] | ({"default": defaults[name]} if name in defaults else {})
        if options.get("default") is False:
            options["action"] = "store_true"
        elif isinstance(options.get("default"), tuple):
            options["default"] = ",".join(map(str, options["default"]))
        place = people if name in ("forget", "forget_ids") else parser
        place.add_argument(f"--{name.replace('_', '-')}", **options)
    return parser


def plans_of(args: argparse.Namespace) -> list[Plan]:
    """Return the plans that a command line asks for, one for each number of people to forget; raises CourseError."""
    given = {name: value for name, value in vars(args).items() if name in Plan.__dataclass_fields__}
    options = tuple(option for text in getattr(args, "set", ()) for option in parse_options(text))
    numbers = [None] if args.forget is None else parse_numbers(args.forget)
    plan = Plan(**given | {"methods": parse_methods(args.methods), "options": options})
    return [replace(plan, forget=number) for number in numbers]


def world_of(args: argparse.Namespace) -> Plan:
    """Return the plan of a command that asks for faces and model alone; raises CourseError.

    Where no seed of the drawn faces is said, settings are chosen on those of another town.
    """
    given = {name: getattr(args, name) for name in WORLD}
    if given["faces_seed"] is None:
        given["faces_seed"] = TUNING.faces_seed if args.dataset == TUNING.dataset else USUAL.faces_seed
    plan = Plan(**given)
    check_plan(plan)
    return plan


def started_from(plan: Plan) -> dict:
    """Return what decides the model that a plan starts from, as fields of a row."""
    training = training_of(train_config(plan), trained_elsewhere(plan))
    return {"backbone": card_of(plan.backbone).label, "pretrained": plan.pretrained, "train": training}


def file_of(args: argparse.Namespace, name: str) -> Path:
    """Return the results file that a command means: as given, else the course's own to print, a new one to write."""
    return args.out or (STORED if args.table else BUILD_DIR) / f"{name}.json"


def how_to_run(args: argparse.Namespace) -> dict:
    """Return what the flags say of how missing runs are done."""
    return {"jobs": args.jobs, "fresh": args.fresh, "progress": not args.quiet}


def check_plan(plan: Plan) -> None:
    """Raise a CourseError for the first name or number in a plan that cannot work, before anything runs."""
    one_of(plan.dataset, DATASETS, "data set")
    card_of(plan.backbone).chosen(one_of(plan.pretrained, PRETRAINED, "pretrained weights"))
    one_of(plan.profile, PROFILES, "profile")
    one_of(plan.held_out, ("auto", *HELD_OUT), "share to hold out")
    for name in plan.methods:
        one_of(name, METHODS, "method")
    for name, key, value in plan.options:
        one_of(name, METHODS, "method")
        make_config(name, {key: value})
    if plan.seeds < 1 or (plan.forget is not None and plan.forget < 1):
        raise CourseError(f"--seeds and --forget must be at least 1, not {plan.seeds} and {plan.forget}.")
    if min(plan.train_epochs, plan.image_size, plan.max_identities) < 0:
        raise CourseError("--train-epochs, --image-size and --max-identities must not be negative.")
    if plan.faces_seed and plan.dataset != USUAL.dataset:
        raise CourseError(f"--faces-seed draws people, but those of '{plan.dataset}' are photographed: leave it out.")
    if plan.weights_seed and trained_elsewhere(plan):
        raise CourseError(f"--weights-seed starts a pretraining, but '{plan.backbone}' comes trained: leave it out.")
    resolve_device(plan.device)


def open_splits(plan: Plan, seed: int, opened: dict, progress: bool) -> Splits:
    """Return a plan's splits for one seed; data sets already in `opened` are not opened again."""
    size, people = face_size(plan), plan.max_identities or None
    source = (plan.dataset, plan.root, size, people, plan.faces_seed)
    if source not in opened:
        options = {"image_size": size, "device": plan.device, "progress": progress, "max_identities": people}
        options |= {"seed": plan.faces_seed}
        opened[source] = load_faces(plan.dataset, plan.root or None, **options)
    held_out = None if plan.held_out == "auto" else plan.held_out
    who = {"n_forget": plan.forget, "forget_ids": plan.forget_ids, "seed": seed}
    splits = make_splits(opened[source], **who, held_out=held_out)
    if plan.half_unseen:  # none of those of whom settings are chosen is reported
        splits = splits.without_queries(splits.unseen[int(plan.dev) :: 2])
    return splits.swap_dev() if plan.dev else splits


def prepared(plan: Plan, seed: int, opened: dict, progress: bool) -> tuple[Splits, Recogniser]:
    """Return a plan's splits for one seed and the original model; `opened` keeps the data sets and the last model."""
    splits, key = open_splits(plan, seed, opened, progress), (replace(plan, methods=(), options=()), seed)
    if opened.get("model", (None,))[0] != key:
        opened["model"] = key, original_recogniser(plan, splits, progress)
    return splits, opened["model"][1]


def references(plan: Plan) -> tuple[str, ...]:
    """Return the yardsticks of a plan: weights pretrained elsewhere cannot be retrained without somebody."""
    return ("original",) if trained_elsewhere(plan) else REFERENCES


def trained_elsewhere(plan: Plan) -> bool:
    """Say whether a plan starts from published weights."""
    return card_of(plan.backbone).chosen(plan.pretrained) != "none"


def face_size(plan: Plan) -> int:
    """Return the side of the face crops in pixels: as given, or what the backbone wants."""
    return plan.image_size or card_of(plan.backbone).crop_size


def train_config(plan: Plan) -> TrainConfig:
    """Return the pretraining recipe of a plan."""
    epochs = {"epochs": plan.train_epochs} if plan.train_epochs else {}
    return TrainConfig(weights_seed=plan.weights_seed, **epochs)


def original_recogniser(plan: Plan, splits: Splits, progress: bool) -> Recogniser:
    """Load or train the model that the methods start from."""
    choice = {"backbone": plan.backbone, "pretrained": plan.pretrained, "config": train_config(plan)}
    return load_or_train(splits, **choice, device=plan.device, progress=progress)


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


def parse_options(text: str) -> list[tuple[str, str, object]]:
    """Return what `parse_option` does, 'all.key=value' for each method that uses that setting; raises CourseError.

    A number of which a method takes none stays 0: who looks at no retained photo will look at none.
    """
    name, key, value = parse_option(text)
    if name != "all":
        return [(name, key, value)]
    own = {method: vars(entry.config()).get(key) for method, entry in METHODS.items()}
    unused = {method for method, entry in METHODS.items() if key in getattr(entry.config, "unused", ())}
    using = [method for method, x in own.items() if x is not None and (x or x is False) and method not in unused]
    if not using:
        known = {setting for entry in METHODS.values() for setting in vars(entry.config())}
        raise CourseError(f"No method uses a setting '{key}'.{suggest(key, known)}")
    return [(method, key, value) for method in using]


def parse_methods(text: str) -> tuple[str, ...]:
    """Turn 'a,b,c' or 'all' into method names."""
    names = tuple(METHODS) if text == "all" else tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise CourseError("--methods names none: give some, divided by commas, or 'all'.")
    return names


def parse_numbers(text: str, flag: str = "--forget") -> list[int]:
    """Turn '1,5,10' into numbers; raises CourseError."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise CourseError(f"{flag} wants a number of people, or several as in 1,5,10, not '{text}'.") from error
