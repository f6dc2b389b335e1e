"""Tests of utils.unlearning.rates: how far a step may go."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from utils.models.backbones import make_backbone
from utils.models.interface import Card, FaceBackbone
from utils.models.trunks import Looks
from utils.settings import CourseError
from utils.unlearning import loop, losses, rates, unlearn
from utils.unlearning.losses import anchor_pull, strangers_apart
from utils.unlearning.methods.adapters import last_layers
from utils.unlearning.rates import degrees_per_rate, evenly, share_of_rate


class Plane(FaceBackbone):
    """A network of one weight matrix: two numbers of a photo to a point on the circle."""

    card = Card("plane", embedding_dim=2, input_size=1, crop_size=1)

    def __init__(self, scale: float):
        super().__init__()
        self.map = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.map.weight.copy_(scale * torch.eye(2))

    def forward(self, x):
        return self.map(x)

    tail = forward


def looks() -> torch.Tensor:
    """Return two inputs that the plane puts on the circle at 0 and 90 degrees."""
    return torch.eye(2)


def shown() -> tuple[SimpleNamespace, np.ndarray]:
    """Return them as photos by index, and the indices."""
    return SimpleNamespace(of=lambda photos: looks()[photos]), np.arange(2)


@pytest.mark.parametrize("scale", [1.0, 0.1, 10.0])
def test_degrees_of_a_plane_by_hand(scale):
    """Each point has one weight across it and one along it; across, a step of 1 / scale turns it by one radian."""
    model = Plane(scale)
    before = model.map.weight.detach().clone()
    found = degrees_per_rate(model, list(model.parameters()), looks())
    assert found == pytest.approx(math.degrees(1) / scale, rel=2e-2)
    assert torch.equal(model.map.weight, before), "the weights are put back"
    model.requires_grad_(False)
    assert degrees_per_rate(model, list(model.parameters()), looks()) == pytest.approx(found)
    assert not model.map.weight.requires_grad, "and go on resting"


def test_only_the_weights_that_move_are_nudged():
    model = make_backbone("mini", "none").eval()
    photos = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = degrees_per_rate(model, list(model.parameters()), photos)
    last = degrees_per_rate(model, list(model.embedding.parameters()), photos)
    assert 0 < last < 0.9 * whole


def test_easily_moved_networks_take_a_share_others_all(monkeypatch):
    monkeypatch.setattr(rates, "USUAL", 20_000.0)
    for scale, share in ((1.0, 1.0), (1e-3, 0.35), (1e-4, 0.035)):  # 57.3, 57,300 and 573,000 degrees
        model = Plane(scale)
        assert share_of_rate(model, list(model.parameters()), *shown()) == pytest.approx(share, rel=0.05)


def test_a_head_alone_takes_the_whole_rate():
    assert share_of_rate(Plane(1e-6), [nn.Parameter(torch.ones(2))], *shown()) == 1.0


@pytest.mark.parametrize("name", ["stem", "embedding"])
def test_a_network_that_a_layer_of_zeros_makes_blind_is_refused(name):
    """The shifts behind that layer still give a point, the same one for every photo, and a step still moves it."""
    model = make_backbone("mini", "none").eval()
    photos = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    looks = SimpleNamespace(of=lambda chosen: photos[torch.as_tensor(chosen)])
    every = list(model.parameters())
    assert 0 < share_of_rate(model, every, looks, np.arange(6)) <= 1
    with torch.no_grad():
        for part in model.layers()[name]:
            for module in part.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.weight.zero_()
                elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.bias is not None:
                    module.bias.fill_(0.5)
    with pytest.raises(CourseError, match="All points of this network are one"):
        share_of_rate(model, every, looks, np.arange(6))


def test_a_layer_of_zeros_is_refused_in_one_sentence():
    with pytest.raises(CourseError, match="no step moves them"):
        share_of_rate(model := Plane(0.0), list(model.parameters()), *shown())


def test_photos_are_evenly_spaced_and_few():
    assert evenly(np.arange(5), 32).tolist() == [0, 1, 2, 3, 4]
    assert len(evenly(np.arange(1000), 32)) == 32 and evenly(np.arange(1000), 32)[[0, -1]].tolist() == [0, 999]


@pytest.mark.filterwarnings("ignore:The head names")
def test_a_run_moves_less_where_points_move_more(toy_world, monkeypatch):
    """Half the degrees that are usual, half the rate: the same weights as with half the learning rate."""

    def weights(usual: float, rate: float) -> torch.Tensor:
        monkeypatch.setattr(rates, "USUAL", usual)
        options = {"steps": 2, "learning_rate": rate, "photos_per_identity": 3, "retain_per_step": 4}
        model = unlearn("dispersion", *toy_world, device="cpu", progress=False, **options).model
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    monkeypatch.setattr(loop, "share_of_rate", share_of_rate)
    splits = toy_world[2]
    photos = splits.faces.images(evenly(splits.photos("retain_train", "train"), rates.PROBED))
    model = toy_world[0].eval()
    degrees = degrees_per_rate(model, list(model.parameters()), photos)
    halved, plain = weights(degrees / 2, 2e-2), weights(math.inf, 1e-2)
    assert (halved - plain).norm() < 1e-4 * plain.norm()
    assert (weights(math.inf, 2e-2) - plain).norm() > 1e-3 * plain.norm()


@pytest.mark.filterwarnings("ignore:The head names")
def test_adapters_are_measured_through_the_weights_they_change(toy_world, monkeypatch):
    """At the start only one of their two factors has a slope, so they would seem stiff."""
    asked = []
    monkeypatch.setattr(loop, "share_of_rate", lambda model, weights, *_: asked.append(weights) or 1.0)
    options = {"steps": 1, "photos_per_identity": 3, "retain_per_step": 4}
    model = unlearn("gs_lora", *toy_world, device="cpu", progress=False, **options).model
    wanted = sorted(layer.weight.shape for layer in last_layers(model))
    assert sorted(weight.shape for weight in asked[0]) == wanted


# ------------------------------------------------------------------------------------- how hard anchors pull on it


def crowd(monkeypatch, angles: list[float], labels: list[int]) -> tuple[SimpleNamespace, np.ndarray]:
    """Return a task whose photos lie on the circle at these degrees, and the photos."""
    turned = torch.deg2rad(torch.tensor(angles))
    points = torch.stack([turned.cos(), turned.sin()], dim=1)
    monkeypatch.setattr(losses, "strangers_apart", strangers_apart)
    monkeypatch.setattr(losses, "points_of", lambda model, looks: 3 * looks)
    faces, looks = SimpleNamespace(labels=np.array(labels)), SimpleNamespace(of=lambda photos: points[photos])
    task = SimpleNamespace(model=torch.nn.Identity(), splits=SimpleNamespace(faces=faces), looks=looks)
    return task, np.arange(len(angles))


def test_anchors_pull_as_set_where_strangers_lie_far_apart(monkeypatch):
    assert anchor_pull(*crowd(monkeypatch, [0, 90], [1, 2])) == 1.0
    assert anchor_pull(*crowd(monkeypatch, [0, 180], [1, 2])) == 1.0
    assert anchor_pull(*crowd(monkeypatch, [0, 10], [1, 1])) == 1.0, "one person alone has no strangers"


def test_anchors_pull_harder_where_strangers_lie_close_together(monkeypatch):
    assert anchor_pull(*crowd(monkeypatch, [0, 60], [1, 2])) == pytest.approx(0.9 / 0.5, rel=1e-5)
    own = crowd(monkeypatch, [0, 0, 60, 60], [1, 1, 2, 2])  # photos of one person say nothing
    assert anchor_pull(*own) == pytest.approx(0.9 / 0.5, rel=1e-5)
    mixed = crowd(monkeypatch, [0, 60, 90], [1, 2, 3])  # 1/2, 1 - cos 30 and 1 apart
    assert anchor_pull(*mixed) == pytest.approx(0.9 * 3 / (2.5 - math.cos(math.pi / 6)), rel=1e-5)
    assert anchor_pull(*crowd(monkeypatch, [5, 5], [1, 2])) == pytest.approx(90), "never without bounds"


def test_the_pull_is_measured_on_a_few_photos(monkeypatch, tiny_splits, tiny_recogniser):
    asked, photos = [], tiny_splits.photos("retain_train", "train")
    looks = Looks(tiny_recogniser.model, tiny_splits.faces, torch.Generator(), torch.device("cpu"))
    task = SimpleNamespace(model=tiny_recogniser.model, splits=tiny_splits, looks=looks)
    monkeypatch.setattr(looks, "of", lambda some: asked.append(some) or Looks.of(looks, some))
    assert 0 < strangers_apart(task, photos) < 2
    (some,) = asked
    assert len(some) == min(rates.PROBED, len(photos)) and {some[0], some[-1]} == {photos[0], photos[-1]}
