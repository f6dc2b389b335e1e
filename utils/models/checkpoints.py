"""A face model with its head, the recipe that decides it, and the file that keeps it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..faces.splits import Splits
from ..settings import MODEL_DIR, CourseError, atomic_path, one_of, sha256_of
from .backbones import FaceBackbone, card_of, make_backbone
from .heads import HEADS, CosineHead, make_head

MANIFEST = "manifest.json"
HEAD_ROOM = 8 << 20  # bytes that a large head may take beside its model
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
    grey: float = 0.25  # share of photos that lose their colour, so that colour is no short cut
    tint: float = 0.2

    def __post_init__(self) -> None:
        one_of(self.loss, HEADS, "margin loss")
        if self.epochs < 1 or self.batch_size < 2:
            given = f"{self.epochs} and {self.batch_size}"
            raise CourseError(f"Training needs epochs of at least 1 and a batch_size of at least 2, not {given}.")
        if not (0 <= self.grey <= 1 and 0 <= self.tint <= 1):
            raise CourseError(f"grey and tint are shares from 0 to 1, not {self.grey} and {self.tint}.")


@dataclass
class Recogniser:
    """A face model with its head, and where it came from. Introduced in notebook 02."""

    model: FaceBackbone
    head: CosineHead
    source: str
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)


# --------------------------------------------------------------------------------------------------- checkpoints


def training_of(config: TrainConfig, elsewhere: bool = False) -> dict:
    """Return what decides how a model is trained, as plain values: the settings, and the code's own version.

    Of a model trained elsewhere the course makes the head alone.
    """
    head = {"loss": config.loss, **head_options(asdict(config))}
    return head if elsewhere else {"version": RECIPE_VERSION} | asdict(config)


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
    """Write model and head as one safetensors file with recipe and digest in its metadata; never leaves half a file."""
    tensors = {f"model.{name}": value for name, value in recogniser.model.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in recogniser.head.state_dict().items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"recipe": json.dumps(recipe, sort_keys=True), "seconds": f"{recogniser.seconds:.1f}"}
    metadata["digest"] = content_digest(tensors, metadata["recipe"] + metadata["seconds"])
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def room_for(model: FaceBackbone) -> int:
    """Return the bytes that a place must take before a model is trained: half as much again, and a large head."""
    return sum(value.nbytes for value in model.state_dict().values()) * 3 // 2 + HEAD_ROOM


def keep_recogniser(path: Path, recogniser: Recogniser, recipe: dict) -> None:
    """Save a model that was just trained; where that fails, warn and leave it in use: minutes of work are in it."""
    try:
        save_recogniser(path, recogniser, recipe)
    except (CourseError, OSError) as error:
        recogniser.source += f", not kept: {error}"
        warnings.warn(f"The trained model is used now but will be gone afterwards: {error}", stacklevel=3)


def content_digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the sha256 of named weights and of a text: a file that was changed on its way is told by it."""
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_recogniser(path: Path, sha256: str | None = None, wanted: dict | None = None) -> tuple[Recogniser, dict]:
    """Read a checkpoint and its recipe; raises CourseError if it is damaged, has another hash or shapes that do not
    fit (both values are named), or was made by another recipe than the `wanted` one."""
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
    told = metadata["recipe"] + metadata.get("seconds", "")
    if metadata.get("digest") not in (None, content_digest(tensors, told)):  # older files have none
        raise CourseError(f"{path} is damaged: it is not what was written; delete it and train again.")
    recipe = recipe_in(metadata["recipe"], path)
    if wanted is not None and recipe != wanted:
        other = ", ".join(key for key in sorted({*recipe, *wanted}) if recipe.get(key) != wanted.get(key))
        raise CourseError(f"{path} holds a model of another recipe (another {other}); delete it and train again.")
    model = make_backbone(recipe["backbone"], "none")
    n_classes, dim = tensors["head.weight"].shape
    head = make_head(recipe["train"]["loss"], dim, n_classes, **head_options(recipe["train"]))
    load_exactly(model, {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, path.name)
    load_exactly(head, {k[5:]: v for k, v in tensors.items() if k.startswith("head.")}, path.name)
    model.eval()
    return Recogniser(model, head, f"loaded from {path.name}", float(metadata.get("seconds", 0.0))), recipe


def recipe_in(text: str, path: Path) -> dict:
    """Return the recipe out of a checkpoint's metadata; raises CourseError for what is none."""
    try:
        recipe = json.loads(text)
        card_of(recipe["backbone"])
        one_of(recipe["train"]["loss"], HEADS, "margin loss")
        head_options(recipe["train"])
        return recipe
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} has no readable recipe ({error}); delete it and train again.") from error


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


def trained_photos(splits: Splits, identities: tuple[int, ...]) -> np.ndarray:
    """Return the training photos of some identities, in the order of the data set."""
    photos = splits.train
    return photos[np.isin(splits.faces.labels[photos], identities)]


# --------------------------------------------------------------------------------------- the committed checkpoints

EMBEDDED = {
    "original": "mini_synthetic.safetensors",
    "retrain": "mini_synthetic_without_forget_seed0.safetensors",
    "retrain1": "mini_synthetic_without_forget_seed1.safetensors",
    "retrain2": "mini_synthetic_without_forget_seed2.safetensors",
    "recommended": "mini_synthetic_recommended_seed0.safetensors",  # the original after the recommended method
}
