"""Make the models that the course ships, score them, and write their manifest: `python -m utils.training`."""

from __future__ import annotations

import argparse
import json

import torch

from ..faces.splits import Splits
from ..models.checkpoints import EMBEDDED, MANIFEST, Recogniser, embedded_models, recipe_key, recipe_of, save_recogniser
from ..models.training import train_from_scratch
from ..retrieval.evaluation import evaluate
from ..settings import MODEL_DIR, atomic_path, command, sha256_of
from ..unlearning.registry import RECOMMENDED
from .benchmark import run_recipe, unlearned
from .plan import Plan, open_splits, original_recogniser, train_config

RETRAINED = {"retrain": 0, "retrain1": 1, "retrain2": 2}  # without the people of that seed


def made(which: str, progress: bool) -> tuple[Splits, Recogniser, dict, dict]:
    """Return the splits, a model made anew, its recipe, and what else its manifest entry tells."""
    plan = Plan(methods=(RECOMMENDED,), device="cpu")
    splits = open_splits(plan, RETRAINED.get(which, plan.seed), {}, progress)
    if which == "recommended":
        start = original_recogniser(plan, splits, progress)
        outcome = unlearned(plan, splits, start, RECOMMENDED, plan.seed, progress)
        recogniser = Recogniser(outcome.model, outcome.trained_head, "unlearned just now", outcome.seconds)
        recipe = run_recipe(plan, splits, RECOMMENDED)
        return splits, recogniser, recipe, {"images_processed": outcome.images_processed}
    identities, config = splits.retain_train if which in RETRAINED else splits.trained, train_config(plan)
    recogniser = train_from_scratch(splits, identities, plan.backbone, config, torch.device(plan.device), progress)
    return splits, recogniser, recipe_of(splits, identities, plan.backbone, "none", config), {}


def train_embedded(which: str, *, progress: bool = True) -> dict:
    """Make one committed checkpoint again, write it with its manifest entry to data/models, and return the entry."""
    splits, recogniser, recipe, more = made(which, progress)
    path = MODEL_DIR / EMBEDDED[which]
    save_recogniser(path, recogniser, recipe)
    scores = evaluate(recogniser.model, splits, device="cpu", progress=progress).scores()
    entry = more | {
        "file": path.name,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "command": f"python -m utils.training --embedded {which}",
        "seconds": round(recogniser.seconds, 1),
        "threads": torch.get_num_threads(),
        "scores": {pool: {k: scores[pool][k] for k in ("r1", "map")} for pool in ("forget", "retain", "unseen")},
        "recipe": recipe,
    }
    manifest = {key: old for key, old in embedded_models().items() if old["file"] != path.name}
    manifest[recipe_key(recipe)] = entry
    with atomic_path(MODEL_DIR / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return entry


@command
def main(arguments: list[str] | None = None) -> int:
    """Train the committed checkpoints again and print what they reach."""
    parser = argparse.ArgumentParser(prog="python -m utils.training", description="Train the embedded models again.")
    parser.add_argument("--embedded", choices=[*EMBEDDED, "all"], default="original", help="which checkpoint")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(arguments)
    for which in EMBEDDED if args.embedded == "all" else [args.embedded]:
        entry = train_embedded(which, progress=not args.quiet)
        print(json.dumps({key: value for key, value in entry.items() if key != "recipe"}, indent=1))
    return 0
