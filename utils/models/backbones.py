"""Face models: a photo goes in, a point in embedding space comes out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..settings import CourseError, one_of
from .pretrained import FACENET_WEIGHTS, fetch_facenet_weights

BACKBONES = ("mini", "facenet")
PRETRAINED = ("auto", "vggface2", "casia-webface", "none")


class FaceBackbone(nn.Module):
    """What every face model here offers: `embedding_dim`, `input_size`, `parts`, `preprocess` and `forward`."""

    name: str
    embedding_dim: int
    input_size: int

    def preprocess(self, faces: Tensor) -> Tensor:
        """Turn uint8 faces (B, 3, H, W) into the model's float32 input (B, 3, S, S) in [-1, 1]; raises CourseError."""
        if faces.dtype != torch.uint8 or faces.ndim != 4 or faces.shape[1] != 3:
            kind = str(faces.dtype).removeprefix("torch.")
            raise CourseError(f"Faces must be uint8 of shape (B, 3, H, W), not {kind} of shape {tuple(faces.shape)}.")
        x = (faces.float() - 127.5) / 128.0
        if x.shape[-2:] != (self.input_size, self.input_size):
            x = F.interpolate(x, size=(self.input_size, self.input_size), mode="bilinear", antialias=True)
        return x.contiguous(memory_format=torch.channels_last)

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return the network's parts in the order the photo meets them: fine-tuning freezes the first ones."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> FaceBackbone:
        """Switch training on or off; a wholly frozen part stays in evaluation, so its BatchNorm statistics rest."""
        super().train(mode)
        for part in self.layers().values() if mode else ():
            if not any(weight.requires_grad for module in part for weight in module.parameters()):
                for module in part:
                    module.eval()
        return self

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return next(self.parameters()).device


def bare(module: nn.Module, kind: type[nn.Module] = FaceBackbone) -> nn.Module:
    """Return a model or head without the wrapper of parallel or compiled running; raises CourseError if unusable."""
    while isinstance(inner := getattr(module, "module", getattr(module, "_orig_mod", None)), nn.Module):
        module = inner
    what = "head" if kind is not FaceBackbone else "model"
    if not isinstance(module, nn.Module) or not (isinstance(module, kind) or hasattr(module, "preprocess")):
        raise CourseError(f"The {what} is a {type(module).__name__}; pass a {kind.__name__} of this course.")
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind_of = str(tensor.dtype).removeprefix("torch.")
            raise CourseError(f"The {what} holds {kind_of} numbers, but the course computes in float32: use .float().")
    return module


class AddOn(FaceBackbone):
    """A face model with something put behind it; `backbone` is the model inside. Introduced in notebook 07.

    The addition is there for all to see: whoever owns the weights can take it off again.
    """

    def __init__(self, backbone: FaceBackbone):
        super().__init__()
        self.backbone = backbone
        self.name, self.embedding_dim, self.input_size = backbone.name, backbone.embedding_dim, backbone.input_size

    def preprocess(self, faces: Tensor) -> Tensor:
        """Prepare faces as the model inside wants them."""
        return self.backbone.preprocess(faces)

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return the parts of the model inside."""
        return self.backbone.layers()


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

    name = "mini"
    embedding_dim = 128
    input_size = 64
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

    name = "facenet"
    embedding_dim = 512
    input_size = 160

    def __init__(self, pretrained: str | None = None):
        super().__init__()
        from facenet_pytorch import InceptionResnetV1

        self.network = InceptionResnetV1(pretrained=pretrained)
        if pretrained is not None:
            del self.network.logits  # the classifier of its own training people: search has no use for it
        self.to(memory_format=torch.channels_last)

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


def make_backbone(name: str, pretrained: str = "none") -> FaceBackbone:
    """Build a backbone, with random weights ('none') or facenet-pytorch's own; raises CourseError. Notebook 02."""
    one_of(name, BACKBONES, "backbone")
    one_of(pretrained, PRETRAINED, "pretrained weights")
    if name == "mini":
        if pretrained in FACENET_WEIGHTS:
            raise CourseError(f"The mini backbone has no '{pretrained}' weights; use 'auto' or 'none'.")
        return MiniFaceNet()
    if pretrained == "none":
        return FacenetBackbone()
    weights = "vggface2" if pretrained == "auto" else pretrained
    path = fetch_facenet_weights(weights)
    try:
        return FacenetBackbone(weights)
    except (RuntimeError, OSError) as error:
        raise CourseError(f"{path} is not a '{weights}' weight file; delete it and fetch it again.") from error
