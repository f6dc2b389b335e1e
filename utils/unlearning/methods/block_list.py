"""A block list: the original model, one stored mean for each person who asked, and noise for whoever matches one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.backbones import AddOn, FaceBackbone
from ...models.embedding import embed
from ...settings import CourseError
from ..loop import Task
from ..registry import method
from .blends import blends_of
from .scatter import SAMPLE, RandomFourierFeatures, gate_between, look, some_of, spread_of


@dataclass(frozen=True)
class BlockListConfig:
    """`gate_margin` is how far (a cosine) the gate opens below nearly all photos of those who asked.

    `frequency` and `n_features` describe the noise, as in gather and scatter.
    """

    gate_margin: float = 0.05
    frequency: float = 60.0
    n_features: int = 512

    def __post_init__(self) -> None:
        if self.n_features < 1:
            raise CourseError("The noise of a block list needs at least one feature: n_features is 0.")


class BlockListBackbone(AddOn):
    """A face model that answers with noise when a photo is close to a stored mean (P, d). Introduced in notebook 08.

    Whoever opens it reads the list of those who asked, and takes it off.
    """

    def __init__(self, backbone: FaceBackbone, means: Tensor, gate: float, noise: nn.Module):
        super().__init__(backbone)
        self.register_buffer("means", means.to(backbone.device))
        self.register_buffer("gate", torch.tensor(gate, device=backbone.device))
        self.noise = noise.to(backbone.device)

    def added(self, points: Tensor) -> Tensor:
        """Return the embeddings (B, d) of the model inside, or noise where a photo matches the list."""
        points = F.normalize(points)
        closeness, person = (points @ self.means.T).max(dim=1, keepdim=True)
        rest = F.normalize(points - closeness * self.means[person.squeeze(1)])
        return torch.where(closeness > self.gate, self.noise(rest), points)


def mean_directions(points: Tensor, labels: Tensor, people: tuple[int, ...], names: tuple[str, ...]) -> Tensor:
    """Return each person's mean direction (P, d) of unit points (n, d) with labels (n,); raises CourseError if none."""
    for person in people:
        if not (labels == person).any():
            raise CourseError(f"{names[person]} has no training photo, so a block list has no mean to store.")
    return F.normalize(torch.stack([points[labels == person].mean(dim=0) for person in people]))


@method(
    "block_list",
    BlockListConfig,
    title="Block list",
    kind="wrapper",
    needs=("forget", "retain_train"),
    labels=("forget",),
    source="this course, as the least that a service can do",
    notebook="08",
    grid={"frequency": (20.0, 40.0, 60.0, 80.0), "gate_margin": (0.05, 0.1)},
)
def block_list(task: Task, config: BlockListConfig) -> None:
    """Answer noise where max_p z . m_p > gate, m_p the mean direction of a person who asked, and z elsewhere.

    The noise is a fixed, fast-changing function of what is left of z without m_p. Nothing is trained. It hides people
    from those who can only ask the model, and tells who asked to all who hold it. A model that has a list already
    keeps it, and the new names join. Introduced in notebook 08.
    """
    earlier = task.model if isinstance(task.model, BlockListBackbone) else None
    task.model = earlier.backbone if earlier else task.model
    kept = look(task, some_of(task, task.retain_train_photos))
    noise = RandomFourierFeatures(spread_of(kept), config.frequency, config.n_features, task.generator)
    points, faces = look(task, task.forget_photos), task.splits.faces
    labels = torch.from_numpy(faces.labels[task.forget_photos])
    means = mean_directions(points, labels, task.splits.forget, faces.identities)
    blends = embed(task.model, blends_of(task, task.retain_train_photos, SAMPLE))
    task.images_processed += len(blends)
    outside = (torch.cat([kept, blends]) @ means.T).amax(dim=1)
    gate = gate_between((points @ means.T).amax(dim=1), outside, config.gate_margin)
    if earlier:
        means, noise = torch.cat([earlier.means.cpu(), means]), earlier.noise
        gate = min(gate, float(earlier.gate))
    task.model = BlockListBackbone(task.model, means, gate, noise).eval()
    task.history.append({"step": 0, "gate": gate})
