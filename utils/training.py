"""Training a face model, keeping it, finding it again, and turning photos into embeddings."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .backbones import BACKBONES, PRETRAINED, FaceBackbone, bare, make_backbone
from .datasets import FaceDataset
from .heads import HEADS, CosineHead, head_from_centroids, make_head
from .pretrained import who_was_trained_on
from .settings import (
    MODEL_DIR,
    CourseError,
    atomic_path,
    cache_dir,
    command,
    one_of,
    progress_bar,
    resolve_device,
    seed_everything,
    sha256_of,
)
from .splits import Splits

MANIFEST = "manifest.json"
RECIPE_VERSION = 1  # raise it when a change of code, not of settings, changes what training gives


@dataclass(frozen=True)
class TrainConfig:
    """The pretraining recipe; SGD with momentum and a one-cycle learning rate. Introduced in notebook 02."""

    epochs: int = 32
    batch_size: int = 64
    learning_rate: float = 0.15
    weight_decay: float = 2e-4
    loss: str = "cosface"
    scale: float = 32.0
    margin: float = 0.5
    weights_seed: int = 0

    def __post_init__(self) -> None:
        one_of(self.loss, HEADS, "margin loss")
        if self.epochs < 1 or self.batch_size < 2:
            given = f"{self.epochs} and {self.batch_size}"
            raise CourseError(f"Training needs epochs of at least 1 and a batch_size of at least 2, not {given}.")


@dataclass
class Recogniser:
    """A face model with its head, and where it came from. Introduced in notebook 02."""

    model: FaceBackbone
    head: CosineHead
    source: str
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------------- embeddings


@torch.no_grad()
def embed(
    model: FaceBackbone,
    faces: FaceDataset | Tensor,
    indices: np.ndarray | None = None,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Tensor:
    """Return the embeddings (N, d) float32, L2-normalised, on the CPU, of uint8 faces (N, 3, H, W) or a data set.

    Runs where the model is unless `device` moves it; uses autocast on a GPU only. Introduced in notebook 02.
    """
    model = bare(model)
    home, modes = model.device, [(module, module.training) for module in model.modules()]
    device = home if device is None else resolve_device(device)
    chosen = np.arange(len(faces)) if indices is None else np.asarray(indices)
    chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    count = len(chosen)
    model.to(device).eval()
    out = torch.empty(count, model.embedding_dim)
    for start in progress_bar(range(0, count, batch_size), desc="embedding", enabled=progress):
        batch = chosen[start : start + batch_size]
        photos = faces[torch.as_tensor(batch)] if isinstance(faces, Tensor) else faces.images(batch)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            points = model(model.preprocess(photos.to(device)))
        out[start : start + batch_size] = F.normalize(points.float()).cpu()
    model.to(home)
    for module, training in modes:
        module.training = training
    return out


# ------------------------------------------------------------------------------------------------------ training


def augment(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Return uint8 faces (B, 3, H, W) moved, re-lit and some of them partly covered, all at random. Notebook 02."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        draws = torch.rand(len(faces), *shape, generator=generator)
        return (draws * (high - low) + low).to(faces.device)

    moved = move(faces.float(), uniform(-0.2, 0.2), uniform(0.85, 1.15), uniform(-0.14, 0.14, 2), uniform(0, 1) < 0.5)
    gain, tint, offset = uniform(0.85, 1.15, 1, 1, 1), uniform(0.9, 1.1, 3, 1, 1), uniform(-12, 12, 1, 1, 1)
    covered = rectangle(faces.shape[-1], uniform(0, 1, 2), uniform(0.07, 0.22, 2)) & (uniform(0, 1, 1, 1, 1) < 0.35)
    lit = torch.where(covered, uniform(0, 255, 3, 1, 1), moved * gain * tint + offset)
    return lit.round_().clamp_(0, 255).to(torch.uint8)


def move(faces: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor, mirror: Tensor) -> Tensor:
    """Return float faces turned by angles (B,) in radians, zoomed, shifted (B, 2) in half sides, some mirrored."""
    side = 1.0 - 2.0 * mirror
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [cos * side, -sin, shift[:, 0], sin * side, cos, shift[:, 1]]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(faces.shape), align_corners=False)
    return F.grid_sample(faces, grid, padding_mode="reflection", align_corners=False)


def rectangle(size: int, centre: Tensor, half: Tensor) -> Tensor:
    """Return masks (B, 1, S, S) of rectangles with centres and half sides (B, 2) given as shares of the side."""
    place = torch.linspace(0, 1, size, device=centre.device)
    inside = (place - centre[..., None]).abs() < half[..., None]
    return (inside[:, 1, :, None] & inside[:, 0, None, :])[:, None]


def epoch_batches(indices: np.ndarray, batch_size: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    """Yield shuffled batches of photo indices; a last batch of one photo is left out (BatchNorm needs two)."""
    order = indices[torch.randperm(len(indices), generator=generator).numpy()]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        if len(batch) > 1:
            yield batch


def train_recogniser(
    model: FaceBackbone,
    head: CosineHead,
    faces: FaceDataset,
    indices: np.ndarray,
    classes: np.ndarray,
    config: TrainConfig,
    *,
    device: torch.device | str = "auto",
    progress: bool = True,
) -> list[dict]:
    """Train model and head in place with the head's margin loss on photos `indices` of classes (N,); return history.

    Raises CourseError when the loss stops being finite. Introduced in notebook 02.
    """
    device = resolve_device(device)
    model.to(device).train()
    head.to(device)
    generator = torch.Generator().manual_seed(config.weights_seed)
    class_of_photo = dict(zip(indices.tolist(), classes.tolist(), strict=True))
    steps = config.epochs * -(-len(indices) // config.batch_size)
    parameters = [*model.parameters(), *head.parameters()]
    optimiser = torch.optim.SGD(
        parameters, lr=config.learning_rate, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
    )
    cycle = max(steps + 1, 10)  # the schedule's warm-up needs a few steps to divide
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, cycle, pct_start=0.2)
    history = []
    for epoch in progress_bar(range(config.epochs), desc="training the face model", enabled=progress):
        total, seen = 0.0, 0
        for batch in epoch_batches(indices, config.batch_size, generator):
            labels = torch.tensor([class_of_photo[i] for i in batch.tolist()], device=device)
            photos = augment(faces.images(batch).to(device), generator)
            with torch.autocast(device.type, enabled=False):
                loss = F.cross_entropy(head(model(model.preprocess(photos)), labels), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimiser.step()
            schedule.step()
            total, seen = total + loss.item() * len(batch), seen + len(batch)
        history.append({"epoch": epoch, "loss": total / seen})
        if not np.isfinite(total):
            raise CourseError(f"Training diverged in epoch {epoch + 1} at learning rate {config.learning_rate}.")
    model.eval()
    return history


# --------------------------------------------------------------------------------------------------- checkpoints


def recipe_of(splits: Splits, identities: tuple[int, ...], backbone: str, pretrained: str, config: TrainConfig) -> dict:
    """Return everything that decides a trained model, as plain values: data, people, photos, architecture, schedule."""
    faces = splits.faces
    photos = trained_photos(splits, identities)
    people = "\n".join(faces.identities[i] for i in identities)
    names = "\n".join(faces.photo_names[i] for i in photos)
    return {
        "version": RECIPE_VERSION,
        "dataset": faces.name,
        "fingerprint": faces.fingerprint,
        "image_size": faces.image_size,
        "identities": len(identities),
        "identities_sha256": hashlib.sha256(people.encode()).hexdigest(),
        "photos": len(photos),
        "photos_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "backbone": backbone,
        "pretrained": pretrained,
        "train": asdict(config),
    }


def recipe_key(recipe: dict) -> str:
    """Return a short hash of a recipe: the name under which its checkpoint is kept."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def save_recogniser(path: Path, recogniser: Recogniser, recipe: dict) -> None:
    """Write model and head as one safetensors file with the recipe in its metadata; never leaves half a file."""
    tensors = {f"model.{name}": value for name, value in recogniser.model.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in recogniser.head.state_dict().items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"recipe": json.dumps(recipe, sort_keys=True), "seconds": f"{recogniser.seconds:.1f}"}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_recogniser(path: Path, sha256: str | None = None) -> tuple[Recogniser, dict]:
    """Read a checkpoint and its recipe; raises CourseError naming both values when hash or shapes do not fit."""
    path = Path(path)
    if not path.is_file():
        raise CourseError(f"There is no checkpoint at {path}; train it again with: python -m utils.training.")
    if sha256 is not None and (found := sha256_of(path)) != sha256:
        raise CourseError(f"{path} is not the file it should be: sha256 {found}, expected {sha256}; restore it.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CourseError(f"{path} is not a readable checkpoint ({error}); delete it and train again.") from error
    if "recipe" not in metadata or "head.weight" not in tensors:
        raise CourseError(f"{path} holds no recipe and head: it was not written by this course; delete it.")
    recipe = json.loads(metadata["recipe"])
    model = make_backbone(recipe["backbone"], "none")
    n_classes, dim = tensors["head.weight"].shape
    head = make_head(recipe["train"]["loss"], dim, n_classes, **head_options(recipe["train"]))
    load_exactly(model, {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, path.name)
    load_exactly(head, {k[5:]: v for k, v in tensors.items() if k.startswith("head.")}, path.name)
    model.eval()
    return Recogniser(model, head, f"loaded from {path.name}", float(metadata.get("seconds", 0.0))), recipe


def head_options(train: dict) -> dict[str, float]:
    """Return the head's own options out of a training recipe."""
    return {"scale": train["scale"], "margin": train["margin"]}


def load_exactly(module: torch.nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Load a state dict only if names and shapes fit; raises CourseError naming the first that does not, both ways."""
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    for key in sorted(wanted.keys() | given.keys()):
        if wanted.get(key) != given.get(key):
            raise CourseError(
                f"{name} does not fit this model: '{key}' has shape {given.get(key, 'absent')} in the file "
                f"and {wanted.get(key, 'absent')} in the model."
            )
    module.load_state_dict(tensors)


def embedded_models() -> dict[str, dict]:
    """Return the manifest of committed checkpoints: recipe key -> file, sha256, recipe, command, scores."""
    path = MODEL_DIR / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def load_or_train(
    splits: Splits,
    *,
    backbone: str = "mini",
    pretrained: str = "auto",
    config: TrainConfig | None = None,
    without_forget: bool = False,
    train: bool = True,
    device: torch.device | str = "auto",
    progress: bool = True,
) -> Recogniser:
    """Return the face model of these splits: the committed checkpoint, else the cached one, else train it now.

    `without_forget=True` gives the retrained reference, which never saw the forget identities. With `train=False` a
    missing checkpoint is a CourseError instead of minutes of training. Introduced in notebook 02.
    """
    config = config or TrainConfig()
    device = resolve_device(device)
    one_of(backbone, BACKBONES, "backbone")
    one_of(pretrained, PRETRAINED, "pretrained weights")
    identities = tuple(i for i in splits.trained if not (without_forget and i in splits.forget))
    if backbone == "facenet" and pretrained != "none" and not without_forget:
        return pretrained_recogniser(splits, identities, pretrained, config, device, progress)
    recipe = recipe_of(splits, identities, backbone, "none", config)
    key = recipe_key(recipe)
    known = embedded_models().get(key)
    cached = cache_dir() / "models" / f"{key}.safetensors"
    if known:
        recogniser, _ = load_recogniser(MODEL_DIR / known["file"], known["sha256"])
    elif cached.is_file():
        recogniser, _ = load_recogniser(cached)
    elif train:
        recogniser = train_from_scratch(splits, identities, backbone, config, device, progress)
        save_recogniser(cached, recogniser, recipe)
    else:
        raise CourseError(f"No trained model for this recipe (key {key}) is at hand, and training was switched off.")
    recogniser.model.to(device)
    recogniser.head.to(device)
    return recogniser


def trained_photos(splits: Splits, identities: tuple[int, ...]) -> np.ndarray:
    """Return the training photos of some identities, in the order of the data set."""
    photos = splits.train
    return photos[np.isin(splits.faces.labels[photos], identities)]


def train_from_scratch(
    splits: Splits,
    identities: tuple[int, ...],
    backbone: str,
    config: TrainConfig,
    device: torch.device,
    progress: bool,
) -> Recogniser:
    """Train a freshly seeded model and head on the training photos of `identities`. Introduced in notebook 02."""
    seed_everything(config.weights_seed)
    model = make_backbone(backbone, "none")
    head = make_head(config.loss, model.embedding_dim, len(identities), **head_options(asdict(config)))
    photos = trained_photos(splits, identities)
    classes = np.searchsorted(np.asarray(identities), splits.faces.labels[photos])
    start = time.perf_counter()
    history = train_recogniser(model, head, splits.faces, photos, classes, config, device=device, progress=progress)
    return Recogniser(model, head, "trained just now", time.perf_counter() - start, history)


def pretrained_recogniser(
    splits: Splits,
    identities: tuple[int, ...],
    pretrained: str,
    config: TrainConfig,
    device: torch.device,
    progress: bool,
) -> Recogniser:
    """Return facenet-pytorch's pretrained model with a head made of this data set's class centroids.

    Its source says which of the people to forget that model was trained on, where a label list tells.
    """
    start = time.perf_counter()
    weights = "vggface2" if pretrained == "auto" else pretrained
    model = make_backbone("facenet", weights).to(device).eval()
    photos = trained_photos(splits, identities)
    classes = torch.from_numpy(np.searchsorted(np.asarray(identities), splits.faces.labels[photos]))
    points = embed(model, splits.faces, photos, progress=progress)
    head = head_from_centroids(config.loss, points, classes, len(identities), **head_options(asdict(config))).to(device)
    who = who_was_trained_on([splits.faces.identities[i] for i in splits.forget], weights)
    return Recogniser(model, head, f"facenet-pytorch's {weights} weights. {who}", time.perf_counter() - start)


# --------------------------------------------------------------------------------------- the committed checkpoints

EMBEDDED = {"original": "mini_synthetic.safetensors", "retrain": "mini_synthetic_without_forget_seed0.safetensors"}


def train_embedded(which: str, *, progress: bool = True) -> dict:
    """Train one committed checkpoint again, write it with its manifest entry to data/models, and return the entry."""
    from .datasets import load_faces
    from .retrieval import evaluate
    from .splits import make_splits

    splits = make_splits(load_faces("synthetic", progress=progress))
    config = TrainConfig()
    identities = splits.trained if which == "original" else splits.kept
    device = torch.device("cpu")
    recogniser = train_from_scratch(splits, identities, "mini", config, device, progress)
    recipe = recipe_of(splits, identities, "mini", "none", config)
    path = MODEL_DIR / EMBEDDED[which]
    save_recogniser(path, recogniser, recipe)
    scores = evaluate(recogniser.model, splits, device=device, progress=progress)
    entry = {
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


if __name__ == "__main__":
    raise SystemExit(main())
