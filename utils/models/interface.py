"""What a face model says of itself: all that the course must know to feed it, move it and tell where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..settings import CourseError, one_of

WHOLE = (0.0, 0.0, 1.0)


class Lacking(CourseError):
    """A network has not, or does not show, what a method or an attack works on: it is left out, and this says why."""


def nobody_knows(names: Sequence[str], weights: str) -> str:
    """Say that nothing is known of a model's training people."""
    return f"Whom it was trained on is not known here, nor whether these {len(names)} people are among them."


@dataclass(frozen=True)
class Card:
    """What holds for a kind of face model before one is built; methods, evaluation and plans ask nothing else.

    `crop_size` is the side in pixels of the course's crops made for it; of these it sees `window`, (left, top, side) as
    shares of the side, brought to `input_size` pixels; `colour`, `mean` (per channel, 0 to 255) and `scale` give its
    input (x - mean) / scale. `centred` models subtract a fixed mean from every embedding. The first `resting` parts do
    not move in unlearning. `weights` names what was trained elsewhere, the first being the usual one, `origin` whose
    they are, and `label` is what results call it; `told` says in a sentence whether its training people are known.
    Raises CourseError for what cannot be.
    """

    name: str
    embedding_dim: int
    input_size: int
    crop_size: int
    window: tuple[float, float, float] = WHOLE
    colour: str = "rgb"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    scale: float = 128.0
    centred: bool = False
    resting: int = 0
    weights: tuple[str, ...] = ()
    origin: str = ""
    label: str = ""
    told: Callable[[Sequence[str], str], str] = nobody_knows

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)
        left, top, side = self.window
        if not (side > 0 and min(left, top) >= 0 and max(left, top) + side <= 1):
            given = f"left {left}, top {top}, side {side}"
            raise CourseError(
                f"The crop window of '{self.name}' ({given}) lies outside the photo: use shares of 0 to 1."
            )
        one_of(self.colour, ("rgb", "bgr"), "order of colours")
        if self.scale <= 0 or min(self.input_size, self.crop_size, self.embedding_dim) < 1:
            raise CourseError(f"'{self.name}' needs a scale, an input size, a crop size and a width above 0.")

    @property
    def choices(self) -> tuple[str, ...]:
        """What `pretrained` may be for this kind."""
        return ("auto", *self.weights, "none")

    def chosen(self, pretrained: str) -> str:
        """Return the weights that `pretrained` means: 'auto' is the usual ones, 'none' where there are none."""
        if pretrained not in self.choices:
            told = f"use {', '.join(repr(name) for name in self.choices[:-1])} or 'none'"
            raise CourseError(f"The {self.name} backbone has no '{pretrained}' weights; {told}.")
        return (self.weights or ("none",))[0] if pretrained == "auto" else pretrained


class FaceBackbone(nn.Module):
    """What every face model here offers: its `card`, `layers`, `preprocess`, and `forward` as `tail(trunk(x))`."""

    card: Card = Card("plain", embedding_dim=1, input_size=1, crop_size=1)  # for kinds that say no more than these:
    name: str
    embedding_dim: int
    input_size: int

    def __init_subclass__(cls, **options: object) -> None:
        """Let a kind have its card's name, width and input size as its own."""
        super().__init_subclass__(**options)
        if "card" in vars(cls):
            take_after(cls, cls.card)

    def preprocess(self, faces: Tensor) -> Tensor:
        """Turn uint8 faces (B, 3, H, W) into the model's float32 input (B, 3, S, S): window, colour, size.

        Raises CourseError for other faces.
        """
        if faces.dtype != torch.uint8 or faces.ndim != 4 or faces.shape[1] != 3:
            kind = str(faces.dtype).removeprefix("torch.")
            raise CourseError(f"Faces must be uint8 of shape (B, 3, H, W), not {kind} of shape {tuple(faces.shape)}.")
        card = self.card
        faces = cut(faces, card.window) if card.window != WHOLE else faces
        faces = faces.flip(1) if card.colour == "bgr" else faces
        x = (faces.float() - torch.tensor(card.mean, device=faces.device).view(1, 3, 1, 1)) / card.scale
        if x.shape[-2:] != (self.input_size, self.input_size):
            x = F.interpolate(x, size=(self.input_size, self.input_size), mode="bilinear", antialias=True)
        return x.contiguous(memory_format=torch.channels_last)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the darkest and the brightest input (1, 3, 1, 1) that a photo can give."""
        mean = torch.tensor(self.card.mean, device=self.device).view(1, 3, 1, 1)
        return (0 - mean) / self.card.scale, (255 - mean) / self.card.scale

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return the network's parts in the order the photo meets them: fine-tuning freezes the first ones."""
        raise NotImplementedError

    def trunk(self, x: Tensor) -> Tensor:
        """Return what the resting parts make of input x: x itself where none rests."""
        return x

    def tail(self, h: Tensor) -> Tensor:
        """Return the embeddings (B, d) of the trunk's outputs."""
        return self(h)

    def at_rest(self) -> list[nn.Parameter]:
        """Return the weights of the resting parts, which no method of unlearning moves."""
        parts = list(self.layers().values())[: self.card.resting] if self.card.resting else []
        return [weight for part in parts for module in part for weight in module.parameters()]

    def let_move(self) -> FaceBackbone:
        """Let all weights ask for gradients but those at rest; returns itself."""
        self.requires_grad_(True)
        for weight in self.at_rest():
            weight.requires_grad_(False)
        return self

    def let_only_move(self, names: Sequence[str]) -> None:
        """Let the weights of some parts by name ask for gradients, and no others (weights: scripted modules refuse)."""
        self.requires_grad_(False)
        parts = self.layers()
        for name in names:
            for weight in (weight for module in parts[one_of(name, parts, "part")] for weight in module.parameters()):
                weight.requires_grad_(True)

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


def maps_of(model: nn.Module) -> list[nn.Module]:
    """Return a network's convolutions and linear layers; raises Lacking where none can be seen."""
    if found := [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]:
        return found
    raise Lacking("This network shows no convolution and no linear layer, as TorchScript never does.")


def take_after(kind: type[FaceBackbone] | FaceBackbone, card: Card) -> None:
    """Give a kind of face model, or one of them, a card, with its name, width and input size."""
    kind.card, kind.name = card, card.name
    kind.embedding_dim, kind.input_size = card.embedding_dim, card.input_size


def cut(faces: Tensor, window: tuple[float, float, float]) -> Tensor:
    """Return the square window (left, top, side), shares of the side, of faces (B, 3, S, S), to the nearest pixel."""
    left, top, side = (round(share * faces.shape[-1]) for share in window)
    return faces[..., top : top + side, left : left + side]


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

    The addition is there for all to see: whoever owns the weights can take it off again. `added` says what it does.
    """

    def __init__(self, backbone: FaceBackbone):
        super().__init__()
        self.backbone = backbone
        self.card = getattr(backbone, "card", FaceBackbone.card)
        self.name, self.embedding_dim, self.input_size = backbone.name, backbone.embedding_dim, backbone.input_size

    def preprocess(self, faces: Tensor) -> Tensor:
        """Prepare faces as the model inside wants them."""
        return self.backbone.preprocess(faces)

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return the parts of the model inside."""
        return self.backbone.layers()

    def trunk(self, x: Tensor) -> Tensor:
        """Return what the resting parts of the model inside make of its input."""
        return self.backbone.trunk(x)

    def tail(self, h: Tensor) -> Tensor:
        """Return the embeddings (B, d) of the trunk's outputs, as the addition leaves them."""
        return self.added(self.backbone.tail(h))

    def forward(self, x: Tensor) -> Tensor:
        """Map float faces (B, 3, S, S) to the embeddings (B, d) of the model inside, as the addition leaves them."""
        return self.added(self.backbone(x))

    def added(self, points: Tensor) -> Tensor:
        """Return embeddings (B, d) as the addition leaves them."""
        raise NotImplementedError
