"""A very small world: faces of 16 pixels and a network that needs no time, so that every method can be followed."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from utils.faces.datasets import FaceDataset
from utils.faces.splits import Splits, make_splits
from utils.models import backbones
from utils.models.embedding import embed
from utils.models.heads import CosineHead, head_from_centroids


class Toy(backbones.FaceBackbone):
    """A network of three parts for faces of 16 pixels."""

    name, embedding_dim, input_size = "mini", 16, 16

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.embedding = nn.Sequential(nn.Flatten(), nn.Linear(128, 16, bias=False), nn.BatchNorm1d(16))

    def layers(self):
        return {"stem": [self.stem], "stage": [self.stage], "embedding": [self.embedding]}

    def forward(self, x):
        return self.embedding(self.stage(self.stem(x)))


def make_toy_world(faces: FaceDataset) -> tuple[Toy, CosineHead, Splits]:
    """Return a toy network, a head that is unsure, and splits of the people at 16 pixels."""
    small = F.avg_pool2d(faces.pixels.float(), 4).round().to(torch.uint8)
    splits = make_splits(dataclasses.replace(faces, pixels=small, image_size=16), n_forget=2, n_dev=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Toy().eval()
        rows = torch.from_numpy(splits.class_of(splits.faces.labels[splits.train]))
        head = head_from_centroids("cosface", embed(model, splits.faces, splits.train), rows, len(splits.trained))
    return model, head, splits
