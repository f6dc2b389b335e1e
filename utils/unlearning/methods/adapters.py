"""Unlearning in low-rank adapters: the backbone itself stays frozen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...models.backbones import FaceBackbone
from ...models.interface import maps_of
from ...settings import CourseError
from ..loop import Batch, Task, run_steps
from ..losses import retained_names
from ..registry import FULL, LogitConfig, method
from .ascent import forget_names

WARM_UP = 0.2  # the share of the steps before the adapters pay for their size, as in the paper


@dataclass(frozen=True)
class GsLoraConfig(LogitConfig):
    """Adapters of some `rank`; `bound` limits the ascent, in units of log C, which is the loss of a blind guess.

    `beta` weighs the ascent, `sparse_weight` the group penalty by which whole adapters may vanish.
    """

    learning_rate: float = 1e-2
    retain_per_step: int = 64
    rank: int = 8
    beta: float = 3.0
    bound: float = 2.0
    sparse_weight: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainable != "backbone":
            raise CourseError("GS-LoRA trains its adapters alone: leave trainable at 'backbone'.")
        if self.rank < 1:
            raise CourseError(f"rank must be at least 1, not {self.rank}.")


class LowRank(nn.Module):
    """A change of rank r to a weight (out, ...): W + up down, up (out, r) starting at zero. Introduced in notebook 06.

    The columns of `down` have length one on average: then a step moves W about as far as a step on W itself would.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        down = torch.randn(rank, columns, generator=generator) / math.sqrt(rank)
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(weight.shape)

    def size(self) -> Tensor:
        """Return the Euclidean length of both factors taken together: one group of the group-sparse penalty."""
        return torch.cat([self.up.flatten(), self.down.flatten()]).norm()


@torch.no_grad()
def last_layers(model: FaceBackbone) -> list[nn.Module]:
    """Return the convolutions of a model's last stage, those that end at its smallest map, and its last linear layer.

    They are found by sending one blank image through, so this works for any backbone that shows its layers; raises
    Lacking for another. Introduced in notebook 06.
    """
    convolutions: list[tuple[nn.Module, torch.Size]] = []
    linears: list[nn.Module] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            convolutions.append((module, output.shape[-2:]))
        else:
            linears.append(module)

    hooks = [module.register_forward_hook(note) for module in maps_of(model)]
    model(torch.zeros(1, 3, model.input_size, model.input_size, device=model.device))
    for hook in hooks:
        hook.remove()
    last = [module for module, size in convolutions if size == convolutions[-1][1]]
    return [*dict.fromkeys(last), *linears[-1:]]


def attach_adapters(task: Task, rank: int) -> list[LowRank]:
    """Freeze the model and put a low-rank adapter on each of its last layers; nothing changes until they are trained.

    Introduced in notebook 06.
    """
    layers = last_layers(task.model)
    task.model.requires_grad_(False)
    adapters = [LowRank(layer.weight, rank, task.generator) for layer in layers]
    for layer, adapter in zip(layers, adapters, strict=True):
        parametrize.register_parametrization(layer, "weight", adapter)
    return adapters


def merge_adapters(model: nn.Module) -> None:
    """Add every adapter to its weight and remove it: the model has plain weights again. Introduced in notebook 06."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


@method(
    "gs_lora",
    GsLoraConfig,
    title="GS-LoRA",
    needs=("forget", "retain_train"),
    labels=("forget", "retain_train"),
    source="Zhao et al., CVPR 2024 (arXiv 2403.11530)",
    notebook="06",
    full=FULL,
    grid={"learning_rate": (5e-3, 1e-2, 2e-2, 3e-2), "beta": (1.0, 3.0)},
    caveat="written for the feed-forward layers of a transformer; here the last convolutions and the embedding layer",
)
def gs_lora(task: Task, config: GsLoraConfig) -> None:
    """Train low-rank adapters alone on CE_r + beta ReLU(bound - CE_f) + a sum of adapter lengths.

    CE_r has the margin on, CE_f off at a softened scale; head and backbone are frozen and the adapters are merged at
    the end. The ascent is bounded but still one direction per person: the cluster travels. Introduced in notebook 06.
    """
    adapters = attach_adapters(task, config.rank)
    bound = config.bound * math.log(len(task.head.weight))

    def losses(batch: Batch) -> dict[str, Tensor]:
        terms = {
            "retain": retained_names(task.head, batch),
            "forget": config.beta * F.relu(bound - forget_names(task, batch, config.forget_scale)),
        }
        if batch.step >= WARM_UP * config.steps:
            terms["sparsity"] = config.sparse_weight * torch.stack([adapter.size() for adapter in adapters]).sum()
        return terms

    moving = [weight for adapter in adapters for weight in adapter.parameters()]
    layers = [layer for layer in task.model.modules() if parametrize.is_parametrized(layer, "weight")]
    adapted = [layer.parametrizations.weight.original for layer in layers]
    run_steps(task, config, losses, parameters=moving, through=adapted)
    merge_adapters(task.model)
