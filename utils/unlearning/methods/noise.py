"""Unlearning by noise: impair with images unlike the person under the person's name, then repair."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...settings import CourseError, progress_bar
from ..loop import Batch, Task, run_steps
from ..losses import retained_names
from ..registry import LogitConfig, method
from .references import retain_side_only


@dataclass(frozen=True)
class UnsirConfig(LogitConfig):
    """A noise batch holds P x K images, and there are `noise_batches` of them, all different.

    `noise_steps` of Adam at `noise_rate` make the noise, `penalty` weighs its squared length, `impair_share` is the
    share of the steps that impair. The head moves: else impairing only drags noise to where the names already are.
    """

    steps: int = 30
    learning_rate: float = 2e-3
    photos_per_identity: int = 3
    retain_per_step: int = 64
    trainable: str = "both"
    noise_batches: int = 8
    noise_steps: int = 15
    noise_rate: float = 0.1
    penalty: float = 0.01
    impair_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_batches < 1 or self.noise_steps < 1:
            raise CourseError("UNSIR needs noise_batches and noise_steps of at least 1.")
        if self.impair_share > 1:
            raise CourseError(f"impair_share is a share of the steps: at most 1, not {self.impair_share}.")


def noise_loss(task: Task, noise: Tensor, row: int, config: UnsirConfig) -> Tensor:
    """Return -CE(noise, name) + penalty x squared length, both averaged over images (B, 3, S, S): low is unlike."""
    names = torch.full((len(noise),), row, dtype=torch.int64, device=noise.device)
    unlike = F.cross_entropy(task.head(task.model(noise), scale=config.forget_scale), names)
    return config.penalty * noise.square().sum(dim=(1, 2, 3)).mean() - unlike


def make_noise(task: Task, row: int, config: UnsirConfig) -> Tensor:
    """Return noise (noise_batches x K, 3, S, S) as unlike one identity (a head row) as Adam on its pixels makes it."""
    count, size = config.noise_batches * config.photos_per_identity, task.model.input_size
    start = torch.randn(count, 3, size, size, generator=task.generator)
    noise = start.to(task.device).requires_grad_(True)
    optimiser = torch.optim.Adam([noise], lr=config.noise_rate)
    for _ in range(config.noise_steps):
        (noise.grad,) = torch.autograd.grad(noise_loss(task, noise, row, config), noise)
        optimiser.step()
        task.images_processed += count
    return noise.detach()


def noise_bank(task: Task, config: UnsirConfig) -> Tensor:
    """Return noise (people, noise_batches x K, 3, S, S) for every forget identity, in the order of forget_columns."""
    task.model.requires_grad_(False)
    rows = progress_bar(task.forget_columns.tolist(), desc="making noise", enabled=task.progress)
    return torch.stack([make_noise(task, row, config) for row in rows])


def pick_noise(task: Task, bank: Tensor, step: int, config: UnsirConfig) -> tuple[Tensor, Tensor]:
    """Return one noise batch (P x K, 3, S, S) and its names (P x K,): P random people, the step's own K images."""
    people = torch.randperm(len(bank), generator=task.generator)[: config.identities_per_step].to(bank.device)
    k = config.photos_per_identity
    first = step % config.noise_batches * k
    return bank[people, first : first + k].flatten(0, 1), task.forget_columns[people].repeat_interleave(k)


@method(
    "unsir",
    UnsirConfig,
    title="UNSIR",
    needs=("retain_train",),
    labels=("forget", "retain_train"),
    source="Tarun et al., TNNLS 2023 (arXiv 2111.08947)",
    notebook="07",
    full={"steps": 300, "noise_steps": 40},
    grid={"learning_rate": (3e-4, 1e-3, 2e-3, 3e-3), "penalty": (0.001, 0.01)},
)
def unsir(task: Task, config: UnsirConfig) -> None:
    """Impair on noise N that maximises CE(N, c) - penalty |N|^2, named c, plus retained photos; then repair.

    It is told whom to forget but sees no forget photo: noise takes their place. Both phases train backbone and head;
    repairing is ordinary training of the retained photos. The noise is far from all faces and the model learns its
    name as one more look of the person: faces hardly move, and with few steps not even their names are lost. The
    history keeps the noise's mean length, as too strong a penalty leaves no noise. Introduced in notebook 07.
    """
    if not task.splits.forget:
        raise CourseError("Method 'unsir' needs forget identities to make noise for; there are none.")
    bank = noise_bank(task, config)

    def impair(batch: Batch) -> dict[str, Tensor]:
        images, names = pick_noise(task, bank, batch.step, config)
        task.images_processed += len(images)
        noise = F.cross_entropy(task.head(task.model(images), scale=config.forget_scale), names)
        return {"noise": noise, "retain": retained_names(task.head, batch)}

    def repair(batch: Batch) -> dict[str, Tensor]:
        return {"retain": retained_names(task.head, batch)}

    impairing = round(config.steps * config.impair_share)
    phases = ((impair, impairing), (repair, config.steps - impairing))
    for losses, steps in phases:
        run_steps(task, dataclasses.replace(config, steps=steps), losses, sides=retain_side_only)
    for entry in task.history[:impairing]:
        entry["noise_norm"] = bank.flatten(2).norm(dim=2).mean().item()
