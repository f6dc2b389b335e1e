"""Dispersion beside blends: scatter many photos of a person at once, and hold faces of people who do not exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.augmentation import augment
from ...models.backbones import FaceBackbone
from ...models.trunks import points_of
from ...settings import CourseError
from ..dispersion import dispersion_loss
from ..loop import Batch, Task, run_steps, sort_batch
from ..losses import Teacher, anchor_pull, distillation
from ..registry import FULL, StepConfig, method

SHARE_RANGE = (0.3, 0.7)  # how much of a blend is its first face
LAYERS = 2  # the usual number of last layers that move
MOST = 3.0  # times the steps, however many people ask: with forty of 120, nearly the photos of a retraining


@dataclass(frozen=True)
class BlendsConfig(StepConfig):
    """A step sees P x K forget photos, a few retained ones, and `blends_per_step` blends of two retained people.

    Where K is more than half of the usual person's photos, steps see that half and are more in number; so they are
    where more than P people are to be forgotten (`paced`).
    `shifted` is the share of forget photos that are moved and re-lit at random; `last_layers` says how many of the
    network's layers may change, counted from its end, 0 for all; `beta` as in log-sum-exp dispersion.
    """

    steps: int = 100
    learning_rate: float = 5e-3
    photos_per_identity: int = 20
    retain_per_step: int = 32
    retain_weight: float = 2.0
    blends_per_step: int = 32
    blend_weight: float = 2.0
    shifted: float = 0.5
    last_layers: int = LAYERS
    beta: float = 10.0
    unused = ("augment",)  # `shifted` says how many photos are

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shifted > 1:
            raise CourseError(f"shifted is a share of the photos, from 0 to 1, not {self.shifted}.")


@dataclass(frozen=True)
class ForgetOnlyConfig(BlendsConfig):
    """The same without any retained photo: the blends are of two people who are both to be forgotten."""

    learning_rate: float = 3e-3
    retain_per_step: int = 0
    blend_weight: float = 3.0
    unused = ("augment", "retain_weight")


@dataclass
class BlendsBatch(Batch):
    """A batch with blends (S, d): where they lie now, and where the original model puts them."""

    blends: Tensor
    blend_homes: Tensor


def blend(first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
    """Return faces (B, 3, H, W) uint8 mixed pixel by pixel, `shares` (B,) in [0, 1] being the first face's part.

    Of kept outputs of resting layers the activations are mixed instead, which costs no pass through these layers.
    A blend of two people is a face of nobody, close to where people who were never seen lie. Introduced in notebook 08.
    """
    shares = shares.to(first.device).view(-1, 1, 1, 1)
    mixed = shares * first.float() + (1 - shares) * second.float()
    return mixed.round().to(torch.uint8) if first.dtype == torch.uint8 else mixed


def blends_of(task: Task, photos: np.ndarray, count: int) -> Tensor:
    """Return `count` blends (count, 3, H, W) uint8 of two different people's photos, drawn from `photos`.

    With photos of fewer than two people there is nobody to blend, and none is returned.
    """
    labels = task.splits.faces.labels
    if len(np.unique(labels[photos])) < 2:
        count = 0

    def draw() -> np.ndarray:
        return photos[torch.randint(len(photos), (count,), generator=task.generator).numpy()]

    first, second = draw(), draw()
    while (same := labels[first] == labels[second]).any():
        second[same] = draw()[same]
    low, high = SHARE_RANGE
    shares = low + (high - low) * torch.rand(count, generator=task.generator)
    return blend(task.looks.of(first), task.looks.of(second), shares)


def some_shifted(
    faces: Tensor, share: float, generator: torch.Generator, shift: Callable[..., Tensor] = augment
) -> Tensor:
    """Return faces (B, 3, H, W) uint8 of which a random share is augmented as in training; the others stay plain.

    Of kept outputs of resting layers, `shift` gives the augmented ones.
    """
    chosen = torch.rand(len(faces), generator=generator) < share
    return torch.where(chosen.to(faces.device).view(-1, 1, 1, 1), shift(faces, generator), faces)


def last_weights(model: FaceBackbone, count: int) -> list[torch.nn.Parameter]:
    """Return the weights of a network's last layers, 0 for all of them, and freeze the others; raises CourseError for
    more layers than may move. A network of one layer moves that one where `LAYERS` are usual."""
    layers = list(model.layers())[model.card.resting :]
    if count > max(len(layers), LAYERS):
        raise CourseError(f"last_layers is {count}, but {len(layers)} layers of this network may move; 0 means all.")
    if count:
        model.let_only_move(layers[-count:])
    else:
        model.let_move()
    return [weight for weight in model.parameters() if weight.requires_grad]


def paced(task: Task, config: BlendsConfig) -> BlendsConfig:
    """Return settings whose steps see no more than half of the usual person's photos, and as many more steps as look at
    the same number of photos in all; and, of more people than a step shows, as many times the steps, up to `MOST`.

    If every step sees all photos there are, they come apart as one fixed set, and held-out ones stay together.
    """
    counts = np.unique(task.splits.faces.labels[task.forget_photos], return_counts=True)[1]
    photos = min(config.photos_per_identity, max(2, int(np.median(counts)) // 2))
    people, others = min(len(counts), config.identities_per_step), config.retain_per_step + 2 * config.blends_per_step
    longer = (people * config.photos_per_identity + others) / (people * photos + others)
    longer *= min(len(counts) / people, MOST)
    return replace(config, photos_per_identity=photos, steps=round(longer * config.steps))


def run_with_blends(
    task: Task, config: BlendsConfig, source: np.ndarray, forget_terms: Callable[[BlendsBatch], dict[str, Tensor]]
) -> None:
    """Minimise a method's own terms, holding retained photos and blends of the photos in `source`."""
    teacher, looks, pull = Teacher.of(task), task.looks, anchor_pull(task, source)

    def batch_of(task: Task, step: int, forget: np.ndarray, retained: np.ndarray, augmented: bool) -> BlendsBatch:
        blends = blends_of(task, source, config.blends_per_step)
        views = {} if looks.kept is None else {"shift": lambda *_: looks.augmented(forget)}
        scattered = some_shifted(looks.of(forget), config.shifted, task.generator, **views)
        shown = torch.cat([scattered, looks.of(retained), blends])
        points = F.normalize(points_of(task.model, shown).float())
        with torch.no_grad():
            homes = points_of(teacher.model, blends).float() if len(blends) else points[:0]
        task.images_processed += 2 * len(blends)
        known = sort_batch(task, step, forget, retained, points)
        left = points[len(forget) + len(retained) :]
        return BlendsBatch(**vars(known), blends=left, blend_homes=F.normalize(homes))

    def losses(batch: BlendsBatch) -> dict[str, Tensor]:
        terms = forget_terms(batch)
        if len(batch.retain):
            terms["retain"] = config.retain_weight * pull * distillation(batch, teacher.points(batch.retain_photos))
        if len(batch.blends):
            moved = 1.0 - (batch.blends * batch.blend_homes).sum(dim=1)
            terms["blends"] = config.blend_weight * pull * moved.mean()
        return terms

    run_steps(task, config, losses, parameters=last_weights(task.model, config.last_layers), batch_of=batch_of)


def scattered_terms(config: BlendsConfig) -> Callable[[BlendsBatch], dict[str, Tensor]]:
    """Return the forget side of dispersion: log-sum-exp over the pairs of each person."""
    return lambda batch: {
        "dispersion": dispersion_loss("lse", batch.forget, batch.forget_labels, beta=config.beta),
    }


ABOUT = {"labels": ("forget",), "notebook": "08", "source": "this course", "full": FULL}
GRID = {"learning_rate": (3e-3, 5e-3), "retain_weight": (1.0, 2.0), "beta": (10.0, 20.0)}
ONLY_GRID = {"learning_rate": (3e-4, 1e-3, 2e-3, 3e-3), "blend_weight": (3.0, 10.0)}


@method(
    "dispersion_blends",
    BlendsConfig,
    title="Dispersion beside blends",
    needs=("forget", "retain_train"),
    grid=GRID,
    **ABOUT,
)
def dispersion_blends(task: Task, config: BlendsConfig) -> None:
    """Disperse large groups of a person's photos; hold retained photos and blends of two people. Notebook 08.

    The course's recommendation (`RECOMMENDED`): nothing is added behind the network.
    """
    run_with_blends(task, paced(task, config), task.retain_train_photos, scattered_terms(config))


@method(
    "dispersion_forget_only",
    ForgetOnlyConfig,
    title="Dispersion, forget photos only",
    needs=("forget",),
    grid=ONLY_GRID,
    **ABOUT,
)
def dispersion_forget_only(task: Task, config: ForgetOnlyConfig) -> None:
    """Disperse without a single retained photo: blends are of the forgotten people. Notebook 08.

    The paper's setting, in which the others' photos are not at hand; with one person to forget nobody can be blended.
    """
    run_with_blends(task, paced(task, config), task.forget_photos, scattered_terms(config))
