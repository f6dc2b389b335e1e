"""Training a face model, keeping it, and finding it again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F

from ..faces.datasets import FaceDataset
from ..faces.splits import Splits
from ..settings import (
    MODEL_DIR,
    CourseError,
    cache_dir,
    one_of,
    progress_bar,
    resolve_device,
    seed_everything,
    writable_folder,
)
from .augmentation import augment
from .backbones import PRETRAINED, FaceBackbone, card_of, make_backbone
from .checkpoints import (
    Recogniser,
    TrainConfig,
    embedded_models,
    head_options,
    keep_recogniser,
    load_recogniser,
    recipe_key,
    recipe_of,
    room_for,
    trained_photos,
)
from .embedding import centre_on, embed
from .heads import CosineHead, head_from_centroids, make_head
from .trunks import keep_outputs


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
    low, high = 0.85, 0.95  # momentum, lowest where the learning rate is highest
    rate, decay = config.learning_rate, config.weight_decay
    optimiser = torch.optim.SGD(parameters, lr=rate, momentum=high, nesterov=True, weight_decay=decay)
    cycle = max(steps + 1, 10)  # the schedule's warm-up needs a few steps to divide
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, cycle, pct_start=0.2, base_momentum=low, max_momentum=high
    )
    history = []
    for epoch in progress_bar(range(config.epochs), desc="training the face model", enabled=progress):
        total, seen = 0.0, 0
        for batch in epoch_batches(indices, config.batch_size, generator):
            labels = torch.tensor([class_of_photo[i] for i in batch.tolist()], device=device)
            photos = augment(faces.images(batch).to(device), generator, config.grey, config.tint)
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
    weights = card_of(backbone).chosen(one_of(pretrained, PRETRAINED, "pretrained weights"))
    identities = tuple(i for i in splits.trained if not (without_forget and i in splits.forget))
    if weights != "none" and not without_forget:
        return pretrained_recogniser(splits, identities, backbone, weights, config, device, progress)
    recipe = recipe_of(splits, identities, backbone, "none", config)
    key = recipe_key(recipe)
    known = embedded_models().get(key)
    cached = cache_dir() / "models" / f"{key}.safetensors"
    if known:
        recogniser, _ = load_recogniser(MODEL_DIR / known["file"], known["sha256"], recipe)
    elif cached.is_file():
        recogniser, _ = load_recogniser(cached, wanted=recipe)
    elif train:
        room = room_for(make_backbone(backbone, "none"))
        writable_folder(cached.parent, room)  # minutes of training must not end in a place that keeps nothing
        recogniser = train_from_scratch(splits, identities, backbone, config, device, progress)
        keep_recogniser(cached, recogniser, recipe)
    else:
        raise CourseError(f"No trained model for this recipe (key {key}) is at hand, and training was switched off.")
    recogniser.model.to(device)
    recogniser.head.to(device)
    return recogniser


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
    photos, classes = classes_of(splits, identities)
    start = time.perf_counter()
    history = train_recogniser(model, head, splits.faces, photos, classes, config, device=device, progress=progress)
    return Recogniser(model, head, "trained just now", time.perf_counter() - start, history)


def classes_of(splits: Splits, identities: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the training photos of some identities (sorted), by index, and which row of the head each belongs to."""
    photos = trained_photos(splits, identities)
    return photos, np.searchsorted(np.asarray(identities), splits.faces.labels[photos])


def head_on_centroids(
    model: FaceBackbone, splits: Splits, identities: tuple[int, ...], config: TrainConfig, progress: bool
) -> CosineHead:
    """Return a head made of these people's class centroids, after a centred model took the mean embedding of the
    retained people's training photos off every embedding."""
    if model.card.centred:
        centre_on(model, splits.faces, splits.photos("retain_train", "train"), progress=progress)
    photos, classes = classes_of(splits, identities)
    points, options = embed(model, splits.faces, photos, progress=progress), head_options(asdict(config))
    return head_from_centroids(config.loss, points, torch.from_numpy(classes), len(identities), **options)


def pretrained_recogniser(
    splits: Splits,
    identities: tuple[int, ...],
    backbone: str,
    weights: str,
    config: TrainConfig,
    device: torch.device,
    progress: bool,
) -> Recogniser:
    """Return a model with published weights and a head made of this data set's class centroids; the source says
    whether that model's training people are known, and which of the people to forget are among them."""
    start = time.perf_counter()
    model = make_backbone(backbone, weights).to(device).eval()
    keep_outputs(model, splits.faces, progress=progress)
    head = head_on_centroids(model, splits, identities, config, progress).to(device)
    who = model.card.told([splits.faces.identities[i] for i in splits.forget], weights)
    return Recogniser(model, head, f"{model.card.origin} {weights} weights. {who}", time.perf_counter() - start)
