"""Unlearning over several processes: each rank embeds its share of a step's photos, and all take the same step.

torchrun --nproc-per-node 2 -m utils.unlearning.processes --steps 5    # two CPU processes (gloo), or one per GPU (nccl)
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..models.backbones import make_backbone
from ..models.trunks import points_of
from ..settings import CourseError, atomic_path, command, one_of
from .dispersion import dispersion_loss

WAYS = ("gathered", "person on one rank", "local")
PEOPLE, PHOTOS, RETAINED, SIZE, RATE, HOLD = 4, 6, 16, 32, 0.05, 3.0  # the small step that is compared


def gathered(rows: Tensor) -> Tensor:
    """Return the rows of all ranks (W·n, d), in the order of ranks; the gradient flows into this rank's own n rows.

    Each rank computes the same loss from all rows and sends a gradient through its own: summed over ranks, these are
    the gradient of the whole batch. Every rank must bring as many rows. Introduced in notebook 12.
    """
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.detach().contiguous())
    parts[dist.get_rank()] = rows
    return torch.cat(parts)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up every parameter's gradient over all ranks, in place: DDP's average, times the number of ranks. Nb 12."""
    for parameter in parameters:
        dist.all_reduce(parameter.grad)


def small_step(seed: int = 0) -> tuple[torch.nn.Module, Tensor, Tensor, Tensor]:
    """Return a small network and random photos: forget (24), their people, retained (16). The same on every rank."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = make_backbone("mini", pretrained="none").eval()
    photos = torch.randint(0, 256, (PEOPLE * PHOTOS + RETAINED, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return model, photos[: PEOPLE * PHOTOS], torch.arange(PEOPLE).repeat_interleave(PHOTOS), photos[PEOPLE * PHOTOS :]


def share_of(way: str, n: int) -> slice:
    """Return which of n forget photos, sorted by person, this rank embeds: every second one, or whole people."""
    rank, world = dist.get_rank(), dist.get_world_size()
    return slice(rank * n // world, (rank + 1) * n // world) if way == "person on one rank" else slice(rank, n, world)


def whole_loss(model: torch.nn.Module, forget: Tensor, people: Tensor, retained: Tensor, targets: Tensor) -> Tensor:
    """Return dispersion of the forget photos and distillation of the retained ones, in one process."""
    held = (1 - (F.normalize(points_of(model, retained)) * targets).sum(dim=1)).mean()
    return dispersion_loss("lse", F.normalize(points_of(model, forget)), people, beta=10.0) + HOLD * held


def shared_loss(
    way: str, model: torch.nn.Module, forget: Tensor, people: Tensor, retained: Tensor, targets: Tensor
) -> Tensor:
    """Return this rank's part of the loss: the gradients of all parts add up to that of `whole_loss` if `way` is right.

    Distillation is a mean over photos and may be cut anywhere. Dispersion couples pairs: its embeddings are gathered,
    or a person stays on one rank; "local" does neither, and loses the pairs between ranks. Introduced in notebook 12.
    """
    world, mine, own = dist.get_world_size(), share_of(way, len(forget)), share_of("local", len(retained))
    held = (1 - (F.normalize(points_of(model, retained[own])) * targets[own]).sum(dim=1)).mean() / world
    points, names = F.normalize(points_of(model, forget[mine])), people[mine]
    if one_of(way, WAYS, "way") == "gathered":
        everybody = torch.cat([people[rank::world] for rank in range(world)])
        return dispersion_loss("lse", gathered(points), everybody, beta=10.0) + HOLD * held
    return dispersion_loss("lse", points, names, beta=10.0) / world + HOLD * held


def compare(steps: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Return, for each way, how far gradients and weights end from one process's, as a share of their length."""
    found = {}
    for way in WAYS:
        alone, *photos = (part.to(device) for part in small_step())
        with torch.no_grad():
            photos.append(F.normalize(points_of(alone, photos[2].flip(-1))))  # held to something they are not yet
        alone.requires_grad_(True)
        shared, firsts = copy.deepcopy(alone), []
        for model, loss_of in ((alone, whole_loss), (shared, lambda *data, way=way: shared_loss(way, *data))):
            optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
            for step in range(steps):
                optimiser.zero_grad(set_to_none=False)
                loss_of(model, *photos).backward()
                if model is shared:
                    sum_gradients(p for p in model.parameters() if p.grad is not None)
                if step == 0:
                    firsts.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
                optimiser.step()
        weights = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (alone, shared)]
        found[way] = {"gradient": distance(*firsts), "weights": distance(*weights)}
    return found


def distance(one: Tensor, other: Tensor) -> float:
    """Return the length of a difference as a share of the first one's length."""
    return float((one - other).norm() / one.norm())


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Compare the ways on the ranks that torchrun started, and print or write what rank 0 found."""
    parser = argparse.ArgumentParser(prog="torchrun --nproc-per-node 2 -m utils.unlearning.processes")
    parser.add_argument("--steps", type=int, default=5, help="steps of plain SGD that are compared")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    args = parser.parse_args(arguments)
    if "RANK" not in os.environ:
        raise CourseError("No ranks here: start it with torchrun --nproc-per-node 2 -m utils.unlearning.processes.")
    gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(minutes=2))
    torch.set_num_threads(1)
    try:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
        about = {"ranks": dist.get_world_size(), "steps": args.steps, "device": device.type}
        found = about | {"ways": compare(args.steps, device)}
        if dist.get_rank() == 0:
            print(json.dumps(found, indent=1))
            if args.out:
                with atomic_path(args.out) as temporary:
                    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
