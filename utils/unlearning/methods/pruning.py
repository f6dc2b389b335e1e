"""Unlearning in chosen weights: damp, mask or thin out those that carry the forget set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.backbones import FaceBackbone
from ...models.dlib import Affine
from ...settings import CourseError, progress_bar
from ..loop import Batch, Task, forward, run_steps
from ..losses import rows_of, without_columns
from ..registry import FULL, method
from .labels import RandomLabelsConfig, draw_any, draw_wrong_labels, relabel
from .references import FinetuneConfig, retain_side_only

PHOTOS_AT_ONCE = 64  # for sums of gradients, which do not depend on it


def backbone_weights(model: FaceBackbone) -> list[torch.nn.Parameter]:
    """Return the weights that shape an embedding and may move: not those at rest, nor a classifier's that came along.

    Introduced in notebook 07.
    """
    resting = {id(weight) for weight in model.at_rest()} if isinstance(model, FaceBackbone) else set()
    named = model.named_parameters()
    return [weight for name, weight in named if ".logits." not in name and id(weight) not in resting]


# ---------------------------------------------------------------------------------------------------- SSD and LFSSD


@dataclass(frozen=True)
class DampingConfig:
    """A weight is damped where it matters `alpha` times more to the forget set than to the whole training set.

    `strength` is the lambda of the paper. Importances are squares or sizes of batch gradients and so depend on the
    batch size: it is a setting. `max_photos` bounds how much of the training set is looked at.
    """

    alpha: float = 14.0
    strength: float = 0.3
    batch_size: int = 64
    max_photos: int = 6000

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_photos < 1:
            given = f"{self.batch_size} and {self.max_photos}"
            raise CourseError(f"Damping needs batch_size and max_photos of at least 1, not {given}.")


@dataclass(frozen=True)
class NamedDampingConfig(DampingConfig):
    """`forget_scale` is the softmax scale of the cross-entropy, whose gradient is next to nothing at the head's own."""

    forget_scale: float = 16.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forget_scale <= 0:
            raise CourseError(f"forget_scale must be above 0, not {self.forget_scale}.")


PhotoLoss = Callable[[Tensor, np.ndarray], Tensor]  # embeddings (B, d) of photos (B,) -> their mean loss


def shuffled(task: Task, photos: np.ndarray) -> np.ndarray:
    """Return photos in an order drawn by the task's seed, so that a batch shows more than one person."""
    return photos[torch.randperm(len(photos), generator=task.generator).numpy()]


def batch_gradients(task: Task, batches: list[np.ndarray], loss_of: PhotoLoss) -> Iterator[tuple[Tensor, ...]]:
    """Yield the gradient of the loss with respect to `backbone_weights` for batch after batch, in evaluation mode."""
    weights = backbone_weights(task.model.eval().let_move())
    for batch in progress_bar(batches, desc="weighing the weights", enabled=task.progress):
        points = F.normalize(forward(task, batch).float())
        task.images_processed += len(batch)
        yield torch.autograd.grad(loss_of(points, batch), weights)


def importances(task: Task, photos: np.ndarray, loss_of: PhotoLoss, *, batch_size: int, power: int) -> list[Tensor]:
    """Return the mean over mini-batches of |batch-mean gradient|^power per backbone weight, float64 on the CPU.

    The photos are dealt in their order into batches of equal size (but for one photo), as small ones would weigh more.
    Introduced in notebook 07.
    """
    totals = [torch.zeros(weight.shape, dtype=torch.float64) for weight in backbone_weights(task.model)]
    batches = np.array_split(photos, math.ceil(len(photos) / batch_size))
    for gradients in batch_gradients(task, batches, loss_of):
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient.cpu().double().abs() ** power
    return [total / len(batches) for total in totals]


def damping_factors(forget: Tensor, whole: Tensor, alpha: float, strength: float) -> Tensor:
    """Return min(lambda I_D / I_f, 1) where I_f > alpha I_D, else 1, from two importances of one shape. Notebook 07."""
    return torch.where(forget > alpha * whole, (strength * whole / forget).clamp(max=1.0), 1.0)


def dampen(task: Task, config: DampingConfig, loss_of: PhotoLoss, power: int) -> None:
    """Weigh every weight on the whole training set and on the forget set, and damp those that stand out."""
    whole = shuffled(task, np.concatenate([task.retain_train_photos, task.forget_photos]))[: config.max_photos]
    i_whole = importances(task, whole, loss_of, batch_size=config.batch_size, power=power)
    forget = shuffled(task, task.forget_photos)
    i_forget = importances(task, forget, loss_of, batch_size=config.batch_size, power=power)
    weights, damped = backbone_weights(task.model), 0
    with torch.no_grad():
        for weight, f, d in zip(weights, i_forget, i_whole, strict=True):
            factor = damping_factors(f, d, config.alpha, config.strength)
            weight.mul_(factor.to(weight))
            damped += int((factor < 1).sum())
    task.history.append({"step": 0, "damped": damped / sum(weight.numel() for weight in weights)})


@method(
    "ssd",
    NamedDampingConfig,
    title="Selective synaptic dampening",
    needs=("forget", "retain_train"),
    labels=("forget", "retain_train"),
    source="Foster, Schoepf, Brintrup, AAAI 2024 (arXiv 2308.07707)",
    notebook="07",
    grid={"alpha": (5.0, 8.0, 10.0, 14.0), "strength": (0.3, 1.0)},
)
def ssd(task: Task, config: NamedDampingConfig) -> None:
    """Multiply weights by min(lambda I_D / I_f, 1) where I_f > alpha I_D; I is the mean squared batch gradient.

    The loss is the cross-entropy of the own name, margin off, at a softened scale. Nothing is trained and the head,
    whose rows' lengths mean nothing, is left out. What is damped serves everybody a little, and nothing pulls one
    person's photos apart: no dispersal, but less quality. Introduced in notebook 07.
    """

    def loss_of(points: Tensor, photos: np.ndarray) -> Tensor:
        return F.cross_entropy(task.head(points, scale=config.forget_scale), task.head_rows(photos))

    dampen(task, config, loss_of, power=2)


@dataclass(frozen=True)
class LossFreeDampingConfig(DampingConfig):
    """Sizes of gradients differ less than their squares do, so `alpha` is lower."""

    alpha: float = 6.0


@method(
    "lfssd",
    LossFreeDampingConfig,
    title="Loss-free synaptic dampening",
    needs=("forget", "retain_train"),
    source="Foster, Schoepf, Brintrup, ICLR 2024 Tiny Papers (arXiv 2402.19308)",
    notebook="07",
    grid={"alpha": (2.0, 3.0, 4.0, 6.0), "strength": (0.3, 1.0)},
)
def lfssd(task: Task, config: LossFreeDampingConfig) -> None:
    """Dampen as SSD does, with I the mean |batch gradient| of the squared length of the cosine vector.

    The length of the embedding itself would not do: it is always one, and its gradient zero. No identity is asked for.
    It disperses no more than SSD. Introduced in notebook 07.
    """

    def loss_of(points: Tensor, photos: np.ndarray) -> Tensor:
        return task.head.cosines(points).square().sum(dim=1).mean()

    dampen(task, config, loss_of, power=1)


# ------------------------------------------------------------------------------------------------------------ SalUn


@dataclass(frozen=True)
class SalUnConfig(RandomLabelsConfig):
    """`rho` is the share of the backbone's weights that may move; two steps less pay for finding the salient ones."""

    steps: int = 48
    learning_rate: float = 3e-3
    rho: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rho <= 1:
            raise CourseError(f"rho is the share of weights that may move: above 0 and at most 1, not {self.rho}.")


@dataclass(frozen=True)
class SalUnFixedConfig(SalUnConfig):
    """With labels that stay, the sweep chose more weights and larger steps."""

    learning_rate: float = 5e-3
    rho: float = 0.8


def saliency(task: Task, scale: float) -> list[Tensor]:
    """Return |sum over forget photos of the gradient of cross-entropy| per backbone weight, float64 on the CPU.

    Margin off, at a softened scale, of the model as it is; raises CourseError if it is zero everywhere. Notebook 07.
    """

    def loss_of(points: Tensor, photos: np.ndarray) -> Tensor:
        return F.cross_entropy(task.head(points, scale=scale), task.head_rows(photos), reduction="sum")

    totals = [torch.zeros(weight.shape, dtype=torch.float64) for weight in backbone_weights(task.model)]
    batches = np.array_split(task.forget_photos, math.ceil(len(task.forget_photos) / PHOTOS_AT_ONCE))
    for gradients in batch_gradients(task, batches, loss_of):
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient.cpu().double()
    if not any(total.any() for total in totals):
        raise CourseError(f"At forget_scale {scale} the forget photos have no gradient to rank weights by: lower it.")
    return [total.abs() for total in totals]


def top_share(scores: list[Tensor], share: float) -> list[Tensor]:
    """Return boolean masks, True for the highest `share` of all scores, over all tensors at once. Notebook 07."""
    flat = torch.cat([score.flatten() for score in scores])
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[flat.topk(max(1, round(share * len(flat)))).indices] = True
    parts = mask.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def hold_unmasked(weights: list[torch.nn.Parameter], masks: list[Tensor]) -> Callable[[int], None]:
    """Return a function that puts all weights outside their masks back to where they are now, bit for bit.

    Masking gradients would not do: momentum and weight decay move a weight that has no gradient. Notebook 07.
    """
    places = [mask.to(weight.device) for weight, mask in zip(weights, masks, strict=True)]
    start = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def restore(step: int) -> None:
        for weight, place, value in zip(weights, places, start, strict=True):
            weight.copy_(torch.where(place, weight, value))

    return restore


def relabel_salient(task: Task, config: SalUnConfig, wrong_names: Callable[[Batch], Tensor]) -> None:
    """Relabel in the rho most salient backbone weights; the others stay as they were, bit for bit."""
    masks = top_share(saliency(task, config.forget_scale), config.rho)
    relabel(task, config, wrong_names, after_step=hold_unmasked(backbone_weights(task.model), masks))


SALUN = {
    "needs": ("forget",),
    "optional": ("retain_train",),
    "labels": ("forget", "retain_train"),
    "notebook": "07",
    "full": FULL,
    "grid": {"learning_rate": (3e-3, 5e-3), "rho": (0.1, 0.3, 0.5, 0.8)},
}


@method(
    "salun",
    SalUnConfig,
    title="SalUn",
    source="Fan et al., ICLR 2024 (arXiv 2310.12508)",
    caveat="the authors take all forget photos, then all retained ones, and let the head move; "
    "here each step sees both and the head is frozen",
    **SALUN,
)
def salun(task: Task, config: SalUnConfig) -> None:
    """Learn random labels, drawn anew for every photo and step, in the rho most salient backbone weights only.

    Saliency is |grad CE(D_f)|. As in the authors' code any name may be drawn, the true one and the other forgotten ones
    too. On average over draws that is one target for all, so it moves a cluster more than it disperses it. Notebook 07.
    """
    relabel_salient(task, config, lambda batch: draw_any(task, len(batch.forget)))


@method(
    "salun_fixed",
    SalUnFixedConfig,
    title="SalUn (labels fixed)",
    source="the course's variant of Fan et al., ICLR 2024 (arXiv 2310.12508)",
    caveat="not the authors' method: they redraw the labels, and from all names",
    **SALUN,
)
def salun_fixed(task: Task, config: SalUnConfig) -> None:
    """Learn one fixed random retained name per forget photo in the rho most salient backbone weights only.

    Targets differ from photo to photo, so it disperses as fixed random labels do, a little less. Notebook 07.
    """
    table = draw_wrong_labels(task)
    relabel_salient(task, config, lambda batch: rows_of(table, batch.forget_photos))


# -------------------------------------------------------------------------------------------------------- L1-sparse


@dataclass(frozen=True)
class L1SparseConfig(FinetuneConfig):
    """`penalty` is the weight of the L1 norm at the first step; for the last `free_share` of the steps it is zero."""

    learning_rate: float = 3e-3
    penalty: float = 0.1
    free_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.free_share < 1:
            raise CourseError(f"free_share must be at least 0 and below 1, not {self.free_share}.")


def thinned_weights(model: FaceBackbone) -> list[torch.nn.Parameter]:
    """Return the backbone's weights but for those of BatchNorm: a gain near zero would shut a channel. Notebook 07."""
    norms = (m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm | Affine))
    gains = {id(weight) for norm in norms for weight in norm.parameters()}
    return [weight for weight in backbone_weights(model) if id(weight) not in gains]


def l1_norm(weights: list[torch.nn.Parameter]) -> Tensor:
    """Return the sum of the absolute values of some weights, with gradient."""
    return torch.stack([weight.abs().sum() for weight in weights]).sum()


def penalty_at(step: int, config: L1SparseConfig) -> float:
    """Return a_e = a (1 - e / (E - E_free)) while that is positive, else 0, at step e of E. Notebook 07."""
    return config.penalty * max(0.0, 1.0 - step / (config.steps * (1.0 - config.free_share)))


@method(
    "l1_sparse",
    L1SparseConfig,
    title="L1-sparse fine-tuning",
    needs=("retain_train",),
    labels=("retain_train",),
    source="Jia et al., NeurIPS 2023 (arXiv 2304.04934)",
    notebook="07",
    full=FULL,
    grid={"learning_rate": (1e-3, 3e-3), "penalty": (1e-4, 1e-3, 1e-2, 1e-1)},
    caveat="the paper's weight of the L1 norm could not be verified",
)
def l1_sparse(task: Task, config: L1SparseConfig) -> None:
    """Minimise CE(D_r) + a_e ||theta||_1 on retained photos, a_e falling to zero before the end.

    Fine-tuning with less and less room to remember in; steps of a gradient method shrink weights and leave few exactly
    at zero. It never sees a forget photo, so nothing pulls one person's photos apart. Introduced in notebook 07.
    """
    weights = thinned_weights(task.model)

    def losses(batch: Batch) -> dict[str, Tensor]:
        logits = without_columns(task.head(batch.retain, batch.retain_rows), task.forget_columns)
        sparsity = penalty_at(batch.step, config) * l1_norm(weights)
        return {"retain": F.cross_entropy(logits, batch.retain_rows), "sparsity": sparsity}

    run_steps(task, config, losses, sides=retain_side_only)
