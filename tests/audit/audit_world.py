"""A small world in which every wrong choice of photos, people or model gives another number, and a network for it."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.audit.case import AuditCase, Subject
from utils.audit.summary import make_case
from utils.faces.datasets import FaceDataset
from utils.faces.splits import Splits
from utils.models.backbones import FaceBackbone
from utils.models.heads import CosFace
from utils.unlearning.methods.projection import ProjectedBackbone

CPU = torch.device("cpu")
SIDE, DIM = 8, 8
# (training, query, gallery) photos of each person of a pool, and how much their photos differ
PEOPLE: dict[str, tuple[tuple[tuple[int, int, int], ...], float]] = {
    "forget": (((6, 3, 1), (7, 2, 2), (6, 4, 2), (8, 3, 3)), 0.5),
    "dev_forget": (((4, 1, 2), (5, 2, 1)), 0.6),
    "retain": (
        ((12, 1, 1), (13, 2, 1), (6, 1, 2), (5, 1, 1), (11, 1, 2), (6, 1, 1), (7, 1, 1))
        + ((3, 1, 1), (6, 2, 2), (5, 1, 1), (6, 1, 1), (7, 1, 2), (8, 1, 1), (12, 1, 2)),
        0.35,
    ),
    "unseen": (((0, 2, 6), (0, 4, 7), (0, 5, 8)), 0.65),
    "distractors": (((0, 0, 1),) * 3, 0.5),
}
PARTS = ("train", "query", "gallery")


class PinNet(FaceBackbone):
    """Two convolutions and a linear layer: 8×8 face -> 8 numbers."""

    name, input_size = "pin", SIDE

    def __init__(self, width: int = DIM) -> None:
        super().__init__()
        self.embedding_dim = width
        self.conv1, self.norm1 = nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.linear, self.norm3 = nn.Linear(6 * 16, width, bias=False), nn.BatchNorm1d(width)

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return two convolutional parts, each of several modules, and the embedding layer."""
        first, second = [self.conv1, self.norm1, self.relu1], [self.conv2, self.norm2, self.relu2]
        return {"first": first, "second": second, "embedding": [self.linear, self.norm3]}

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.norm1(self.conv1(x)))
        x = self.relu2(self.norm2(self.conv2(x)))
        return self.norm3(self.linear(x.flatten(1)))


def deal() -> tuple[dict[str, tuple[int, ...]], np.ndarray, dict[str, np.ndarray], list[tuple[str, str, int]]]:
    """Return pools, labels, parts and, per photo, (pool, part, how many-th of its person's part); all mixed up."""
    rng = np.random.default_rng(4)
    names = iter(rng.permutation(sum(len(people) for people, _ in PEOPLE.values())).tolist())
    pools = {pool: tuple(sorted(next(names) for _ in people)) for pool, (people, _) in PEOPLE.items()}
    photos = [
        (label, pool, part)
        for pool, (people, _) in PEOPLE.items()
        for label, counts in zip(pools[pool], people, strict=True)
        for part, count in zip(PARTS, counts, strict=True)
        for _ in range(count)
    ]
    photos = [photos[i] for i in rng.permutation(len(photos))]
    seen: dict[tuple, int] = {}
    notes = []
    for photo in photos:
        seen[photo] = seen.get(photo, -1) + 1
        notes.append((*photo[1:], seen[photo]))
    labels = np.array([label for label, *_ in photos])
    parts = {part: np.flatnonzero([note[1] == part for note in notes]) for part in PARTS}
    return pools, labels, parts, notes


def draw(labels: np.ndarray, pools: dict[str, tuple[int, ...]]) -> Tensor:
    """Return uint8 faces: a pattern a person, more or less disturbed from photo to photo."""
    rng = np.random.default_rng(9)
    spread = {label: PEOPLE[pool][1] for pool, people in pools.items() for label in people}
    patterns = rng.normal(size=(len(spread), 3, SIDE, SIDE))
    faces = [patterns[label] + spread[label] * 2 * rng.normal(size=(3, SIDE, SIDE)) for label in labels]
    return torch.from_numpy(np.clip(127 + 40 * np.array(faces), 0, 255).astype(np.uint8))


def splits_of(faces: Tensor, labels: np.ndarray, pools: dict, parts: dict) -> Splits:
    people = tuple(f"P{label}" for label in range(len({*labels.tolist()})))
    photo_names = tuple(map(str, range(len(labels))))
    data = FaceDataset("pins", faces, labels, people, photo_names, SIDE, "drawn for a test", "MIT", 4)
    return Splits(data, 0, **pools, **parts)


def world() -> tuple[Splits, list[tuple[str, str, int]]]:
    pools, labels, parts, notes = deal()
    return splits_of(draw(labels, pools), labels, pools, parts), notes


def with_pixels(splits: Splits, faces: Tensor) -> Splits:
    return dataclasses.replace(splits, faces=dataclasses.replace(splits.faces, pixels=faces))


def net(splits: Splits, width: int = DIM) -> PinNet:
    """Return a random network whose statistics fit the world's faces, so that its points lie all around the sphere."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = PinNet(width).train()
        for norm in (model.norm1, model.norm2, model.norm3):
            norm.momentum = None
            norm.weight.data.uniform_(0.6, 1.4)
            norm.bias.data.uniform_(-0.3, 0.3)
        with torch.no_grad():
            model(model.preprocess(splits.faces.images(np.arange(len(splits.faces)))))
    return model.eval()


def moved(model: PinNet, seed: int, spread: float) -> PinNet:
    """Return a network whose every weight and statistic lies somewhat off another's."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for name, value in other.state_dict().items():
        if value.is_floating_point():
            draws = torch.randn(2, *value.shape, generator=generator)
            value.mul_(1 + spread * draws[0].clamp(-2, 2) / 2).add_(spread * value.std() * draws[1] / 2)
            value.abs_() if name.endswith("var") else None
    return other


def head(seed: int, rows: int) -> CosFace:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CosFace(DIM, rows)


def portraits(splits: Splits, model: PinNet, seed: int, share: float) -> CosFace:
    """Return a head whose rows hold a share of the people's mean embeddings, in the order of the trained labels."""
    made, faces = head(seed, len(splits.trained)), splits.faces
    with torch.no_grad():
        for row, label in enumerate(splits.trained):
            photos = [i for i in splits.train if faces.labels[i] == label]
            points = F.normalize(model(model.preprocess(faces.images(photos))))
            made.weight[row] = F.normalize(share * points.mean(dim=0) + (1 - share) * made.weight[row], dim=0)
    return made


def projection() -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        return torch.eye(DIM) - 0.35 * torch.randn(DIM, DIM)


def models(splits: Splits) -> dict[str, tuple[FaceBackbone, CosFace]]:
    """Return original, retrained, unlearned, and the unlearned one with a map added, each with its head."""
    old = net(splits)
    new, other = moved(old, 2, 0.4), moved(old, 42, 0.5)
    return {
        "original": (old, portraits(splits, old, 11, 0.75)),
        "retrained": (other, head(12, len(splits.retain_train))),
        "unlearned": (new, portraits(splits, old, 13, 0.6)),
        "wrapped": (ProjectedBackbone(new, projection()).eval(), portraits(splits, old, 14, 0.7)),
    }


def case_of(splits: Splits, who: dict[str, tuple[FaceBackbone, CosFace]], name: str, seed: int = 3) -> AuditCase:
    """Return the case of these models with one of them under audit."""
    case = make_case(splits, who["original"], who["retrained"], seed=seed, device=CPU)
    if name in ("original", "retrained"):
        return case.on(getattr(case, name))
    return case.on(Subject(*who[name], splits, CPU))


def attributes(splits: Splits, model: PinNet) -> Tensor:
    """Return what the world's people are said to look like (people, 5): what a model sees of them, and some noise."""
    with torch.no_grad():
        points = F.normalize(model(model.preprocess(splits.faces.images(np.arange(len(splits.faces))))))
    labels, people = torch.from_numpy(splits.faces.labels), range(len(splits.faces.identities))
    means = torch.stack([points[labels == person].mean(dim=0) for person in people])
    draws = torch.randn(len(means), 5, generator=torch.Generator().manual_seed(6))
    return means[:, :5] + 0.1 * draws * means.std()
