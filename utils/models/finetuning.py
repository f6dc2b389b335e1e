"""Fit a trained face model to a new data set: freeze its first parts, start the head at the people's centroids.

`python -m utils.finetuning --cost` measures what a step costs on this machine, by what is frozen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from ..faces.splits import Splits
from ..settings import (
    MODEL_DIR,
    CourseError,
    cache_dir,
    command,
    one_of,
    resolve_device,
    seed_everything,
    writable_folder,
)
from ..tables import text_table
from .augmentation import augment
from .backbones import BACKBONES, PRETRAINED, FaceBackbone, card_of, make_backbone
from .checkpoints import (
    EMBEDDED,
    Recogniser,
    TrainConfig,
    content_digest,
    embedded_models,
    keep_recogniser,
    load_recogniser,
    recipe_key,
    recipe_of,
    room_for,
)
from .heads import make_head
from .training import classes_of, head_on_centroids, train_recogniser

STARTS = ("embedded", *PRETRAINED[1:])


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """The fine-tuning recipe: `trainable` is how many of the model's last layers move; 0 leaves only the head."""

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 0.02
    trainable: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainable < 0:
            raise CourseError(f"trainable is {self.trainable}, but it counts parts of the model, from 0 on.")


@contextmanager
def frozen_front(model: FaceBackbone, trainable: int) -> Iterator[list[str]]:
    """Freeze all but the model's last `trainable` parts while the block runs; yields the names of those that move.

    Raises CourseError if the model has fewer parts. Introduced in notebook 01.
    """
    parts = model.layers()
    if trainable > len(parts):
        raise CourseError(f"trainable is {trainable}, but the model has {len(parts)} parts: {', '.join(parts)}.")
    moving = list(parts)[len(parts) - trainable :]
    model.let_only_move(moving)
    try:
        yield moving
    finally:
        model.requires_grad_(True)


def starting_model(backbone: str, start: str | Path) -> FaceBackbone:
    """Return the model to start from: a name of STARTS, or a checkpoint file of this course; raises CourseError."""
    card_of(backbone)
    if str(start) == "embedded":
        entry = next(entry for entry in embedded_models().values() if entry["file"] == EMBEDDED["original"])
        if backbone != (kind := entry["recipe"]["backbone"]):
            raise CourseError(f"The embedded model is a {kind} backbone; start '{backbone}' from its own weights.")
        return load_recogniser(MODEL_DIR / entry["file"], entry["sha256"])[0].model
    if str(start) in STARTS:
        return make_backbone(backbone, str(start))
    if Path(start).suffix != ".safetensors":
        one_of(str(start), (*STARTS, "a .safetensors file"), "start")
    model = load_recogniser(Path(start))[0].model
    if model.name != backbone:
        raise CourseError(f"{start} holds a '{model.name}' model, not '{backbone}'.")
    return model


def finetune(
    splits: Splits,
    *,
    backbone: str = "mini",
    start: str | Path = "embedded",
    config: FinetuneConfig | None = None,
    without_forget: bool = False,
    train: bool = True,
    device: torch.device | str = "auto",
    progress: bool = True,
) -> Recogniser:
    """Return a model fitted to these splits' people, from its cached checkpoint or by fine-tuning now.

    The key of the checkpoint covers the data, the people, the photos, the schedule and the very weights it starts
    from. With `train=False` a missing checkpoint is a CourseError. Introduced in notebook 01.
    """
    config, device = config or FinetuneConfig(), resolve_device(device)
    identities = tuple(i for i in splits.trained if not (without_forget and i in splits.forget))
    seed_everything(config.weights_seed)
    model = starting_model(backbone, start)
    recipe = recipe_of(splits, identities, backbone, "fine-tuned", config)
    recipe["start"] = content_digest(model.state_dict())
    cached = cache_dir() / "models" / f"{recipe_key(recipe)}.safetensors"
    if cached.is_file():
        recogniser, _ = load_recogniser(cached, wanted=recipe)
        recogniser.model.to(device)
        recogniser.head.to(device)
        return recogniser
    if not train:
        raise CourseError(f"No fine-tuned model for this recipe (key {cached.stem}) is at hand; allow training.")
    writable_folder(cached.parent, room_for(model))
    recogniser = _finetune_now(model, splits, identities, config, device, progress)
    keep_recogniser(cached, recogniser, recipe)
    return recogniser


def _finetune_now(
    model: FaceBackbone,
    splits: Splits,
    identities: tuple[int, ...],
    config: FinetuneConfig,
    device: torch.device,
    progress: bool,
) -> Recogniser:
    began = time.perf_counter()
    photos, classes = classes_of(splits, identities)
    head = head_on_centroids(model.to(device), splits, identities, config, progress)
    with frozen_front(model, config.trainable) as moving:
        history = train_recogniser(model, head, splits.faces, photos, classes, config, device=device, progress=progress)
    what = f"fine-tuned just now ({', '.join(moving) or 'the head alone'})"
    return Recogniser(model, head, what, time.perf_counter() - began, history)


# -------------------------------------------------------------------------------------------------------------- cost


def step_costs(
    backbone: str, *, batch_size: int = 32, n_classes: int = 100, steps: int = 3, device: torch.device | str = "auto"
) -> list[dict]:
    """Measure one fine-tuning step per number of moving parts: their names, weights that move, ms per photo."""
    device = resolve_device(device)
    model = make_backbone(backbone, "none").to(device)
    head = make_head("cosface", model.embedding_dim, n_classes).to(device)
    side, generator = model.input_size, torch.Generator().manual_seed(0)
    faces = torch.randint(0, 256, (batch_size, 3, side, side), generator=generator, dtype=torch.uint8).to(device)
    labels = torch.randint(0, n_classes, (batch_size,), generator=generator).to(device)
    rows = []
    for trainable in range(len(model.layers()) + 1):
        with frozen_front(model, trainable) as moving:
            model.train()
            weights = [weight for weight in (*model.parameters(), *head.parameters()) if weight.requires_grad]
            optimiser = torch.optim.SGD(weights, lr=0.0, momentum=0.9)
            seconds = []
            for _ in range(steps + 1):  # the first one also sets things up
                began = time.perf_counter()
                loss = F.cross_entropy(head(model(model.preprocess(augment(faces, generator))), labels), labels)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                loss.item()
                seconds.append(time.perf_counter() - began)
            count = sum(weight.numel() for weight in weights)
            rows.append({"moving": moving, "weights": count, "ms_per_photo": 1000 * min(seconds[1:]) / batch_size})
    return rows


def cost_table(rows: list[dict]) -> str:
    """Return the measured costs as text, with the minutes that 1,000 photos take per epoch."""
    lines = [["what moves, besides the head", "weights", "ms/photo", "min/1,000"]]
    for row in rows:
        names, cost = ", ".join(row["moving"]) or "nothing", row["ms_per_photo"]
        lines.append([names, f"{row['weights']:,}", f"{cost:.1f}", f"{cost / 60:.2f}"])
    return text_table(lines)


@command
def main(arguments: list[str] | None = None) -> int:
    """Measure what fine-tuning costs on this machine."""
    parser = argparse.ArgumentParser(prog="python -m utils.finetuning", description=main.__doc__)
    parser.add_argument("--cost", action="store_true", help="measure a step for every number of moving parts")
    parser.add_argument(
        "--backbone", default="mini", metavar="NAME", help=f"one of: {', '.join(BACKBONES)}, or file:PATH"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photos per step")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(arguments)
    if not args.cost:
        parser.error("nothing to do; add --cost")
    card_of(args.backbone)
    print(cost_table(step_costs(args.backbone, batch_size=args.batch_size, device=args.device)))
    return 0
