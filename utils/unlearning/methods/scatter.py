"""Gather and scatter: bring all who are to be forgotten to one place, and let nothing that is said there be read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.backbones import AddOn, FaceBackbone
from ...models.embedding import embed
from ...settings import CourseError
from ..dispersion import dispersion_loss
from ..loop import Task
from ..registry import method
from .blends import BlendsBatch, BlendsConfig, blends_of, run_with_blends

LOWEST = 0.01  # share of gathered photos outside the gate before its margin, and of others that may be inside
AWAY, AWAY_SHARPNESS = 0.2, 20.0  # whoever stays keeps this far from the meeting point
PEOPLE = 10  # what the number of steps is meant for
HARDENED = {"scramble_weight": 0.5, "photos_per_identity": 12}  # against whoever takes the layer off; notebook 10
SAMPLE = 512  # retained photos, and blends, that tell how ordinary embeddings are spread


@dataclass(frozen=True)
class ScatterConfig(BlendsConfig):
    """`away_weight` keeps others from the meeting point; the rest describes the layer that scatters who is there.

    `steps` are for ten people at most; with more to forget the run is longer in proportion.
    `scramble_weight` above 0 disperses what is left of a person's photos without the meeting point, so that less can be
    read when somebody takes the layer off; `clear_head` writes the meeting point over the head's rows of the forgotten.
    `gate_margin` is how far (a cosine) the gate opens below nearly all gathered photos, `sharpness` how suddenly.
    `frequency` says how fast the scattered place changes with the photo: near 0 look-alike photos stay together;
    `n_features` is the width of the layer.
    """

    steps: int = 80
    learning_rate: float = 5e-3
    identities_per_step: int = 40  # everybody in every step, or those who come late stay half-way
    photos_per_identity: int = 6
    blends_per_step: int = 64
    retain_weight: float = 3.0
    blend_weight: float = 3.0
    away_weight: float = 1.0
    scramble_weight: float = 0.0
    gate_margin: float = 0.1
    sharpness: float = 50.0
    frequency: float = 40.0
    n_features: int = 512
    clear_head: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_features < 1:
            raise CourseError("The scattering layer needs at least one wave.")


class ScatterBackbone(AddOn):
    """A face model that scatters whatever comes close to one meeting point and lets the rest pass. Notebook 08.

    Near the meeting point b the embedding z is replaced by a fixed, fast-changing function of what is left of z without
    b: normalise(A sin(frequency W r + phase)). The layer knows no face: W, A and the phases are random numbers, b is
    empty space.
    """

    def __init__(self, backbone: FaceBackbone, meeting_point: Tensor, gate: float, sharpness: float, layer: nn.Module):
        super().__init__(backbone)
        self.register_buffer("meeting_point", meeting_point.to(backbone.device))
        self.register_buffer("gate", torch.tensor(gate, device=backbone.device))
        self.register_buffer("sharpness", torch.tensor(sharpness, device=backbone.device))
        self.layer = layer.to(backbone.device)

    def added(self, points: Tensor) -> Tensor:
        """Return embeddings (B, d), scattered where they came close to the meeting point."""
        points = F.normalize(points)
        closeness = points @ self.meeting_point
        let_in = torch.sigmoid(self.sharpness * (closeness - self.gate))[:, None]
        rest = F.normalize(points - closeness[:, None] * self.meeting_point)
        return (1 - let_in) * points + let_in * self.layer(rest)


class RandomFourierFeatures(nn.Module):
    """A fixed random function of unit vectors (B, d) that neighbours do not survive (Rahimi and Recht, 2007).

    High frequencies make it change fast; its values are unit vectors (B, d), spread as `spread` says.
    """

    def __init__(self, spread: Tensor, frequency: float, n_features: int, generator: torch.Generator):
        super().__init__()
        d = len(spread)
        self.register_buffer("fast", torch.randn(n_features, d, generator=generator) * frequency / d**0.5)
        self.register_buffer("phase", torch.rand(n_features, generator=generator) * 2 * torch.pi)
        self.register_buffer("out", spread @ torch.randn(d, n_features, generator=generator) / n_features**0.5)

    def forward(self, rest: Tensor) -> Tensor:
        """Map unit vectors (B, d) to unit vectors (B, d)."""
        return F.normalize(torch.sin(rest @ self.fast.T + self.phase) @ self.out.T)


def smallest_principal_axis(points: Tensor) -> Tensor:
    """Return the unit vector (d,) along which points (n, d) have least energy: where nobody lives. Notebook 08."""
    points = points.double().cpu()
    return torch.linalg.eigh(points.T @ points).eigenvectors[:, 0].float()


def spread_of(points: Tensor) -> Tensor:
    """Return L (d, d) with L L^T the second moment of points (n, d): noise times L is spread as the points are."""
    points = points.double().cpu()
    moment = points.T @ points / len(points)
    return torch.linalg.cholesky(moment + 1e-6 * torch.eye(len(moment), dtype=torch.float64)).float()


def look(task: Task, photos: np.ndarray) -> Tensor:
    """Return the model's unit embeddings (n, d) of plain photos, on the CPU, and count them."""
    task.images_processed += len(photos)
    return embed(task.model, task.splits.faces, photos)


def some_of(task: Task, photos: np.ndarray) -> np.ndarray:
    """Return at most SAMPLE of some photos, drawn at random."""
    return photos[torch.randperm(len(photos), generator=task.generator)[:SAMPLE].numpy()]


def gate_between(inside: Tensor, outside: Tensor, margin: float) -> float:
    """Return the cosine from which a photo counts as one of those who asked.

    It lies `margin` below nearly all cosines of those inside (n,), but never where others (m,) would be let in.
    """
    return float(max(inside.quantile(LOWEST) - margin, outside.quantile(1 - LOWEST)))


@method(
    "gather_scatter",
    ScatterConfig,
    title="Gather and scatter",
    kind="wrapper",
    needs=("forget", "retain_train"),
    labels=(),
    notebook="08",
    source="this course",
    full={"steps": 300},
    grid={"learning_rate": (3e-3, 5e-3), "frequency": (40.0, 60.0), "gate_margin": (0.1, 0.2)},
)
def gather_scatter(task: Task, config: ScatterConfig) -> None:
    """Train the network to bring all forget photos to one empty place, then scatter what arrives there. Notebook 08.

    The weights lose who is who among the forgotten; the layer behind them loses which photo is like which. Scattered
    points are spread as retained people's are: aimed at the ordinary, not at the extreme. A model that has such a layer
    already keeps it, so that later requests join the earlier ones. A wrapper: whoever holds the weights takes it off.
    """
    sample = some_of(task, task.retain_train_photos)
    earlier = task.model if isinstance(task.model, ScatterBackbone) else None
    task.model = earlier.backbone if earlier else task.model
    meeting = earlier.meeting_point if earlier else smallest_principal_axis(look(task, sample)).to(task.device)

    def gathered(batch: BlendsBatch) -> dict[str, Tensor]:
        near = torch.cat([batch.retain, batch.blends]) @ meeting - AWAY
        away = F.softplus(AWAY_SHARPNESS * near).mean() / AWAY_SHARPNESS
        closeness = batch.forget @ meeting
        terms = {"gather": (1.0 - closeness).mean(), "away": config.away_weight * away}
        if config.scramble_weight:
            rest = F.normalize(batch.forget - closeness[:, None] * meeting)
            spread = dispersion_loss("lse", rest, batch.forget_labels, beta=config.beta)
            terms["scramble"] = config.scramble_weight * spread
        return terms

    longer = max(1.0, len(task.splits.forget) / PEOPLE)
    run_with_blends(task, replace(config, steps=round(config.steps * longer)), task.retain_train_photos, gathered)
    kept = look(task, sample)
    layer = (
        earlier.layer
        if earlier
        else RandomFourierFeatures(spread_of(kept), config.frequency, config.n_features, task.generator)
    )
    blends = embed(task.model, blends_of(task, task.retain_train_photos, SAMPLE))
    task.images_processed += len(blends)
    inside, outside = look(task, task.forget_photos) @ meeting.cpu(), torch.cat([kept, blends]) @ meeting.cpu()
    gate = gate_between(inside, outside, config.gate_margin)
    gate = min(gate, float(earlier.gate)) if earlier else gate
    task.model = ScatterBackbone(task.model, meeting, gate, config.sharpness, layer)
    if config.clear_head:
        with torch.no_grad():
            task.head.weight[task.forget_columns] = meeting.to(task.head.weight)
