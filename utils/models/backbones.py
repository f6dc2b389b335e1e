"""Face models: a photo goes in, a point in embedding space comes out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..settings import CourseError, one_of
from .dlib import DlibBackbone
from .files import DOOR, file_backbone, file_card
from .interface import AddOn, Card, FaceBackbone, bare
from .pretrained import FACENET_WEIGHTS, fetch_facenet_weights, who_was_trained_on

__all__ = ["BACKBONES", "PRETRAINED", "AddOn", "Card", "FaceBackbone", "bare", "card_of", "make_backbone"]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut; the first one halves the resolution. Introduced in notebook 02."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class MiniFaceNet(FaceBackbone):
    """A residual CNN of about one million parameters: 64×64 colour face -> 128 numbers. Introduced in notebook 02."""

    card = Card("mini", embedding_dim=128, input_size=64, crop_size=64)
    widths = (24, 48, 96, 192)

    def __init__(self):
        super().__init__()
        first, *_, last = self.widths
        stem = nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(first), nn.ReLU())
        pairs = zip(self.widths[:-1], self.widths[1:], strict=True)
        self.stages = nn.Sequential(*(ResidualBlock(inputs, outputs) for inputs, outputs in pairs))
        self.embedding = nn.Sequential(
            nn.Flatten(),
            nn.Linear(last * 4 * 4, self.embedding_dim, bias=False),
            nn.BatchNorm1d(self.embedding_dim),
        )
        self.to(memory_format=torch.channels_last)

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return stem, three stages and the embedding layer."""
        stages = {f"stage {k}": [stage] for k, stage in enumerate(self.stages, start=1)}
        return {"stem": [self.stem], **stages, "embedding": [self.embedding]}

    def forward(self, x: Tensor) -> Tensor:
        """Map float faces (B, 3, 64, 64) to un-normalised embeddings (B, 128)."""
        return self.embedding(self.stages(self.stem(x)))


class FacenetBackbone(FaceBackbone):
    """facenet-pytorch's InceptionResnetV1 (23.5 M parameters): 160×160 face -> 512 numbers (Schroff et al. 2015)."""

    card = Card(
        "facenet", embedding_dim=512, input_size=160, crop_size=160,
        weights=tuple(FACENET_WEIGHTS), origin="facenet-pytorch's", told=who_was_trained_on,
    )  # fmt: skip

    def __init__(self, pretrained: str | None = None):
        super().__init__()
        from facenet_pytorch import InceptionResnetV1

        self.network = InceptionResnetV1(pretrained=pretrained)
        if pretrained is not None:
            del self.network.logits  # the classifier of its own training people: search has no use for it
        self.to(memory_format=torch.channels_last)

    @classmethod
    def with_weights(cls, weights: str) -> FacenetBackbone:
        """Return the network with published weights, fetched if they are not at hand; raises CourseError."""
        path = fetch_facenet_weights(weights)
        try:
            return cls(weights)
        except (RuntimeError, OSError) as error:
            raise CourseError(f"{path} is not a '{weights}' weight file; delete it and fetch it again.") from error

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return stem, the three groups of Inception blocks and the embedding layer."""
        net = self.network
        return {
            "stem": [net.conv2d_1a, net.conv2d_2a, net.conv2d_2b, net.conv2d_3b, net.conv2d_4a, net.conv2d_4b],
            "blocks 35": [net.repeat_1, net.mixed_6a],
            "blocks 17": [net.repeat_2, net.mixed_7a],
            "blocks 8": [net.repeat_3, net.block8],
            "embedding": [net.dropout, net.last_linear, net.last_bn],
        }

    def forward(self, x: Tensor) -> Tensor:
        """Map float faces (B, 3, 160, 160) to embeddings (B, 512); this network normalises them itself."""
        return self.network(x)


KINDS = {kind.card.name: kind for kind in (MiniFaceNet, FacenetBackbone, DlibBackbone)}
BACKBONES = tuple(KINDS)
PRETRAINED = ("auto", *(name for kind in KINDS.values() for name in kind.card.weights), "file", "none")


def card_of(name: str) -> Card:
    """Return what a backbone or 'file:PATH' says of itself before it is built; raises CourseError for another name."""
    if name.startswith(DOOR):
        return file_card(name)
    return KINDS[one_of(name, BACKBONES, "backbone")].card


def make_backbone(name: str, pretrained: str = "none") -> FaceBackbone:
    """Build a backbone, with random weights ('none') or published ones; raises CourseError. Introduced in notebook 02.

    'auto' is the usual weights of the kind, and random ones where none are published; 'file:PATH' opens a network that
    others made.
    """
    weights = card_of(name).chosen(one_of(pretrained, PRETRAINED, "pretrained weights"))
    if name.startswith(DOOR):
        return file_backbone(name, weights, make_backbone)
    return KINDS[name]() if weights == "none" else KINDS[name].with_weights(weights)
