"""One door for other people's recognisers: `--backbone file:PATH`, a network in a file with a few lines beside it."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..faces.synthetic.dataset import synthetic_faces
from ..settings import CourseError, sha256_of
from .interface import Card, FaceBackbone, take_after

DOOR = "file:"
WANTED = ("input_size", "embedding_dim")  # what a description must say
MAY = ("crop_size", "window", "colour", "mean", "scale", "architecture")
UNREADABLE = (RuntimeError, OSError, EOFError, ValueError, LookupError, pickle.UnpicklingError)
SAME, APART = 1e-3, 0.999  # cosines: a photo with itself differs by no more, two people are no closer


class FileBackbone(FaceBackbone):
    """A network from a file behind the course's interface: one part, all of it moves."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def __deepcopy__(self, memo: dict) -> FileBackbone:
        """Return a copy of its own: a TorchScript's would stay tied to the original by gradients."""
        with torch.no_grad():
            twin = FileBackbone(copy.deepcopy(self.network, memo))
        for weight, mine in zip(twin.parameters(), self.parameters(), strict=True):
            weight.requires_grad_(mine.requires_grad)
        take_after(twin, self.card)
        return twin.train(self.training)

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return the network as its only part."""
        return {"embedding": [self.network]}

    def forward(self, x: Tensor) -> Tensor:
        """Map float faces (B, 3, S, S) to embeddings (B, d)."""
        return self.network(x)


def described(name: str) -> dict:
    """Return the description beside the file of 'file:PATH': PATH with the ending .json; raises CourseError."""
    path = Path(name.removeprefix(DOOR)).expanduser()
    beside = path.with_suffix(".json")
    if not path.is_file():
        raise CourseError(f"There is no file at {path}: name a recogniser as in --backbone file:PATH.")
    try:
        told = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        example = '{"input_size": 112, "embedding_dim": 512, "colour": "rgb", "mean": 127.5, "scale": 127.5}'
        raise CourseError(f"{beside} cannot be read ({error}): describe the network there, as in {example}.") from error
    known = (*WANTED, *MAY)
    if not isinstance(told, dict) or (strange := [key for key in told if key not in known]):
        named = f"holds '{strange[0]}'" if isinstance(told, dict) else "is no list of names and values"
        raise CourseError(f"{beside} {named}; it may say: {', '.join(known)}.")
    if missing := [key for key in WANTED if key not in told]:
        raise CourseError(f"{beside} does not say {missing[0]}: add it.")
    return told


def file_card(name: str) -> Card:
    """Return the card of 'file:PATH' out of its description; raises CourseError for one that cannot be."""
    told, path = described(name), Path(name.removeprefix(DOOR)).expanduser()
    about = {key: value for key, value in told.items() if key in {field.name for field in fields(Card)}}
    about |= {"crop_size": told.get("crop_size", told["input_size"])}
    about |= {"mean": triple(told["mean"])} if "mean" in told else {}
    about |= {"window": tuple(told["window"])} if "window" in told else {}
    digest = hashlib.sha256((sha256_of(path) + json.dumps(told, sort_keys=True)).encode()).hexdigest()
    try:
        return Card(name, **about, weights=("file",), origin=path.name, label=f"{DOOR}{path.stem}-{digest[:12]}")
    except (TypeError, ValueError) as error:
        if isinstance(error, CourseError):
            raise
        raise CourseError(f"The description of {path.name} does not fit together ({error}): mend it.") from error


def triple(mean: float | list[float]) -> tuple[float, ...]:
    """Return a mean as three numbers, one per channel."""
    return tuple(mean) if isinstance(mean, list) else (mean,) * 3


def file_backbone(name: str, weights: str, build: Callable[[str], FaceBackbone]) -> FaceBackbone:
    """Return the network of 'file:PATH', checked on a few drawn faces, or with random weights ('none').

    `build` makes one of the course's own architectures for a state dict. Raises CourseError for a file that is none, or
    that does not do what its description says.
    """
    card, path = file_card(name), Path(name.removeprefix(DOOR)).expanduser()
    read = onnx_network if path.suffix == ".onnx" else torch_network
    network = read(path, described(name), build)
    model = network if isinstance(network, FaceBackbone) else FileBackbone(network)
    take_after(model.eval(), card)
    if weights == "none":
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.copy_(torch.randn_like(weight) * weight.std())
    else:
        check_description(model)
    return model


def onnx_network(path: Path, told: dict, build: Callable[[str], FaceBackbone]) -> nn.Module:
    """Return an ONNX network as a torch module; raises CourseError for one that is no recogniser."""
    try:
        import onnx
        from onnx2torch import convert
    except ImportError as error:
        raise CourseError("ONNX files need two packages: run 'pip install onnx2torch' (it brings onnx).") from error
    try:
        whole = onnx.load(str(path))
    except Exception as error:  # the parser's own kinds of error are no part of its interface
        raise CourseError(f"{path} is no ONNX file, or a broken one ({type(error).__name__}).") from error
    graph = whole.graph
    inputs = [value for value in graph.input if value.name not in {weight.name for weight in graph.initializer}]
    if len(inputs) != 1:
        raise CourseError(f"{path.name} has {len(inputs)} inputs, but a recogniser takes one photo.")
    rank = len(inputs[0].type.tensor_type.shape.dim)
    if rank != 4:
        raise CourseError(f"The input of {path.name} has rank {rank}, but photos have rank 4: (photos, 3, side, side).")
    last = next(node for node in reversed(graph.node) if graph.output[0].name in node.output)
    if last.op_type in ("Softmax", "LogSoftmax"):
        raise CourseError(f"{path.name} ends with {last.op_type}: it names people, and an embedding is wanted.")
    try:
        return convert(whole)
    except Exception as error:
        raise CourseError(f"onnx2torch cannot turn {path.name} into a torch module ({error}).") from error


def torch_network(path: Path, told: dict, build: Callable[[str], FaceBackbone]) -> nn.Module:
    """Return a TorchScript network, or one of the course's architectures with a state dict; raises CourseError."""
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except UNREADABLE:
        pass
    if "architecture" not in told:
        raise CourseError(f"{path} is no TorchScript; for a state dict its description must say the architecture.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model = build(told["architecture"])
        model.load_state_dict(state)
    except CourseError:
        raise
    except (*UNREADABLE, AttributeError, TypeError) as error:
        first = str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
        raise CourseError(f"{path} holds no weights of the {told['architecture']} architecture ({first}).") from error
    return model


@torch.no_grad()
def check_description(model: FaceBackbone) -> None:
    """Raise a CourseError unless drawn faces come out as a recogniser's: the same photo twice, a mirror, others."""
    card = model.card
    photos, labels, _ = synthetic_faces(4, 0, 2, 1, image_size=card.crop_size, progress=False, cached=False)
    first = photos[[int((torch.as_tensor(labels) == person).nonzero()[0]) for person in range(4)]]
    try:
        points = model(model.preprocess(torch.cat([first, first[:1], first[:1].flip(3)])))
    except UNREADABLE as error:
        last = str(error).strip().splitlines()[-1][:200]
        raise CourseError(
            f"{card.origin} takes no photos of {card.input_size} pixels ({last}): mend input_size."
        ) from error
    if points.ndim != 2 or points.shape[1] != card.embedding_dim:
        shape = tuple(points.shape[1:])
        raise CourseError(
            f"{card.origin} gives {shape} numbers a photo, and its description says {card.embedding_dim}."
        )
    if not torch.isfinite(points).all():
        raise CourseError(
            f"{card.origin} gives numbers that are not finite: mean and scale of its description are wrong."
        )
    cosines = F.normalize(points) @ F.normalize(points).T
    again, mirror, others = float(cosines[0, 4]), float(cosines[0, 5]), cosines[:4, :4][~torch.eye(4, dtype=bool)]
    if again < 1 - SAME:
        raise CourseError(f"{card.origin} sees the same photo twice as {again:.3f}: something in it is left to chance.")
    if float(others.min()) > APART:
        told = "mean, scale or window of its description are wrong, or it has no weights of use"
        raise CourseError(
            f"{card.origin} tells no two people apart (their cosine is {float(others.min()):.4f}): {told}."
        )
    if mirror < float(others.mean()):
        told = "colour, mean, scale or window of its description are wrong"
        raise CourseError(
            f"{card.origin} finds a photo's mirror image less like it ({mirror:.3f}) than other people are "
            f"({float(others.mean()):.3f}): {told}."
        )
