"""dlib's face recogniser (King, 2017) as a network of this course: 150×150 face -> 128 numbers, no BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dlib_weights import dlib_tensors
from .interface import Card, FaceBackbone

GROUPS = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))  # channels, and blocks; from 64 on the first one goes down


def told_of_dlib(names: Sequence[str], weights: str) -> str:
    """Say whom dlib's model was trained on."""
    return (
        "It was trained on about three million photos of 7,485 people from FaceScrub, VGG Face and the web, who were "
        f"not asked; no list of them is published, so whether these {len(names)} people are among them is unknown."
    )


class Affine(nn.Module):
    """A gain and an offset per channel: what is left of a BatchNorm whose statistics rest for ever."""

    def __init__(self, channels: int):
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain.view(1, -1, 1, 1) + self.offset.view(1, -1, 1, 1)


class DlibBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut; one that goes `down` halves the resolution, its shortcut by averaging."""

    def __init__(self, inputs: int, outputs: int, down: bool):
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2 if down else 1, padding=0 if down else 1)
        self.affine1 = Affine(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.affine2 = Affine(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.affine2(self.conv2(F.relu(self.affine1(self.conv1(x)))))
        return F.relu(padded_sum(y, F.avg_pool2d(x, 2) if self.down else x))


def padded_sum(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b (B, C, H, W), where one is smaller with zeros at its right, below, and in channels, as dlib does."""
    sizes = [max(pair) for pair in zip(a.shape[1:], b.shape[1:], strict=True)]
    missing = [[want - have for want, have in zip(sizes, x.shape[1:], strict=True)] for x in (a, b)]
    a, b = (
        F.pad(x, (0, width, 0, height, 0, channels))
        for x, (channels, height, width) in zip((a, b), missing, strict=True)
    )
    return a + b


class DlibBackbone(FaceBackbone):
    """dlib's recogniser, 5.6 M parameters; a fixed mean, `centre`, is taken off each embedding: see `centre_on`.

    Trained with a Euclidean hinge, it puts all faces into one narrow cone: strangers meet at a cosine of 0.84.
    """

    card = Card(
        "dlib", embedding_dim=128, input_size=150, crop_size=160, window=(0.1354, 0.2217, 0.7259),
        mean=(122.782, 117.001, 104.298), scale=256.0, centred=True, resting=4,
        weights=("dlib",), origin="The recogniser of dlib:", told=told_of_dlib,
    )  # fmt: skip

    def __init__(self):
        super().__init__()
        first = GROUPS[0][0]
        self.stem = nn.Sequential(nn.Conv2d(3, first, 7, stride=2), Affine(first), nn.ReLU(), nn.MaxPool2d(3, 2))
        self.groups, inputs = nn.ModuleList(), first
        for number, (channels, count) in enumerate(GROUPS):
            downs = [number > 0] + [False] * (count - 1)
            widths = [inputs] + [channels] * (count - 1)
            blocks = (DlibBlock(width, channels, down) for width, down in zip(widths, downs, strict=True))
            self.groups.append(nn.Sequential(*blocks))
            inputs = channels
        self.embedding = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, self.embedding_dim, bias=False)
        )
        self.register_buffer("centre", torch.zeros(self.embedding_dim))
        self.to(memory_format=torch.channels_last)

    @classmethod
    def with_weights(cls, weights: str) -> DlibBackbone:
        """Return the network with dlib's own weights, fetched if they are not at hand; raises CourseError."""
        model = cls()
        wanted = list(model.parameters())
        with torch.no_grad():
            for parameter, value in zip(wanted, dlib_tensors([tuple(p.shape) for p in wanted]), strict=True):
                parameter.copy_(value)
        return model

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return stem, the blocks by their channels, and the embedding layer."""
        parts = {f"blocks {channels}": [] for channels, _ in GROUPS}
        for (channels, _), group in zip(GROUPS, self.groups, strict=True):
            parts[f"blocks {channels}"].append(group)
        return {"stem": [self.stem], **parts, "embedding": [self.embedding]}

    def trunk(self, x: Tensor) -> Tensor:
        """Map float faces (B, 3, 150, 150) to what the first ten blocks make of them, (B, 128, 8, 8)."""
        h = self.stem(x)
        for group in self.groups[:3]:
            h = group(h)
        return h

    def tail(self, h: Tensor) -> Tensor:
        """Map the trunk's outputs to un-normalised embeddings (B, 128) less the centre."""
        for group in self.groups[3:]:
            h = group(h)
        return self.embedding(h) - self.centre

    def forward(self, x: Tensor) -> Tensor:
        """Map float faces (B, 3, 150, 150) to un-normalised embeddings (B, 128) less the centre."""
        return self.tail(self.trunk(x))
