"""Training against a slow loop of its own: augmentation, margin, rates, momentum, decay, clipping, photos, labels."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils.faces.datasets import FaceDataset
from utils.faces.splits import Splits, make_splits
from utils.models import finetuning, training
from utils.models.augmentation import augment, greyscale
from utils.models.backbones import FaceBackbone
from utils.models.checkpoints import Recogniser, TrainConfig, head_options, trained_photos
from utils.models.finetuning import FinetuneConfig, finetune
from utils.models.heads import head_from_centroids, make_head
from utils.models.training import epoch_batches, load_or_train, train_from_scratch, train_recogniser
from utils.settings import CourseError, seed_everything

SIDE = 8
CPU = torch.device("cpu")


class TinyNet(FaceBackbone):
    """A convolution and a linear layer, each with its BatchNorm: 8 px faces -> 6 numbers."""

    name, embedding_dim, input_size = "mini", 6, SIDE

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(64, 6, bias=False), nn.BatchNorm1d(6))

    def layers(self) -> dict[str, list[nn.Module]]:
        return {"stem": [self.stem], "embedding": [self.last]}

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.stem(x))


@pytest.fixture(scope="module")
def splits() -> Splits:
    """Sixteen people of 8 px noise around a face of their own, 6 photos each."""
    draw, people = torch.Generator().manual_seed(5), 16
    own = torch.randint(40, 216, (people, 1, 3, SIDE, SIDE), generator=draw)
    noise = torch.randint(-30, 31, (people, 6, 3, SIDE, SIDE), generator=draw)
    labels, names = np.repeat(np.arange(people), 6), tuple(f"P{i:02d}" for i in range(people))
    faces = FaceDataset(
        name="noise",
        pixels=(own + noise).flatten(0, 1).to(torch.uint8),
        labels=labels,
        identities=names,
        photo_names=tuple(f"{names[label]}/{i}" for i, label in enumerate(labels)),
        image_size=SIDE,
        source="noise",
        licence="MIT",
        trained_min_photos=6,
    )
    return make_splits(faces, n_forget=3, n_dev=2, seed=1)


# ------------------------------------------------------------------------------------------------------ the slow loop


def rate_and_momentum(step: int, cycle: int, top: float) -> tuple[float, float]:
    """One cycle (Smith 2018): up from a 25th in a fifth of the steps, then down to nearly 0; momentum mirrors it."""
    warm = 0.2 * cycle - 1

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    if step <= warm:
        return between(top / 25, top, step / warm), between(0.95, 0.85, step / warm)
    share = (step - warm) / (cycle - 1 - warm)
    return between(top, top / 25 / 1e4, share), between(0.85, 0.95, share)


def slow_logits(points: Tensor, head: nn.Module, labels: list[int], config: TrainConfig) -> list[Tensor]:
    """Scaled cosines, photo by photo; the own class has its cosine lowered, or its angle widened, by the margin."""
    rows = []
    for point, label in zip(points, labels, strict=True):
        cosines = [(point / point.norm()) @ (weight / weight.norm()) for weight in head.weight]
        if config.loss == "cosface":
            cosines[label] = cosines[label] - config.margin
        else:
            cosines[label] = torch.cos(torch.acos(cosines[label]) + config.margin)
        rows.append(config.scale * torch.stack(cosines))
    return rows


def slow_training(
    model: TinyNet, head: nn.Module, faces: FaceDataset, photos: list[int], classes: list[int], config: TrainConfig
) -> tuple[list[float], float]:
    """Train in place, one number at a time where that is affordable; return the loss per epoch and the largest norm."""
    model.train()
    generator = torch.Generator().manual_seed(config.weights_seed)
    moving = [weight for weight in (*model.parameters(), *head.parameters()) if weight.requires_grad]
    cycle = max(config.epochs * math.ceil(len(photos) / config.batch_size) + 1, 10)
    step, velocities, losses, largest = 0, [], [], 0.0
    for _ in range(config.epochs):
        order = torch.randperm(len(photos), generator=generator).tolist()
        total, seen = 0.0, 0
        for start in range(0, len(order), config.batch_size):
            places = order[start : start + config.batch_size]
            if len(places) == 1:
                continue
            labels = [classes[place] for place in places]
            pixels = torch.stack([faces.pixels[photos[place]] for place in places])
            changed = augment(pixels, generator, config.grey, config.tint)
            points = model((changed.float() - 127.5) / 128)
            rows = slow_logits(points, head, labels, config)
            terms = [torch.logsumexp(row, 0) - row[label] for row, label in zip(rows, labels, strict=True)]
            loss = sum(terms) / len(terms)
            gradients = torch.autograd.grad(loss, moving)
            norm = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients))
            rate, momentum = rate_and_momentum(step, cycle, config.learning_rate)
            with torch.no_grad():
                for k, (weight, gradient) in enumerate(zip(moving, gradients, strict=True)):
                    gradient = gradient * min(1.0, 5.0 / norm) + config.weight_decay * weight
                    if step == 0:
                        velocities.append(gradient.clone())
                    else:
                        velocities[k] = momentum * velocities[k] + gradient
                    weight -= rate * (gradient + momentum * velocities[k])  # Nesterov's look ahead
            total, seen, largest, step = (
                total + loss.item() * len(places),
                seen + len(places),
                max(largest, norm),
                step + 1,
            )
        losses.append(total / seen)
    model.eval()
    return losses, largest


def assert_same(left: nn.Module, right: nn.Module) -> None:
    mine, theirs = left.state_dict(), right.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.allclose(value.float(), theirs[name].float(), atol=1e-5), name


CASES = {
    "two steps": dict(epochs=1, batch_size=8, learning_rate=0.02, weight_decay=0.05, margin=0.4, scale=20.0),
    "an angular margin": dict(epochs=1, batch_size=8, learning_rate=0.02, loss="arcface", margin=0.3, scale=0.8),
    "the whole cycle": dict(epochs=5, batch_size=5, learning_rate=0.02, weight_decay=0.1, scale=4.0, weights_seed=7),
}


@pytest.mark.parametrize("case", CASES)
def test_training_is_the_slow_loop(case, splits):
    """Sixteen photos in another order than the data set's, of five people: two batches of 8, or three and a single."""
    config = TrainConfig(**CASES[case])
    photos = np.concatenate([splits.faces.photos_of(label)[:4] for label in (9, 2, 11, 5)])[::-1].copy()
    classes = np.array([{9: 3, 2: 0, 11: 4, 5: 1}[label] for label in splits.faces.labels[photos]])
    torch.manual_seed(3)
    model, head = TinyNet(), make_head(config.loss, 6, 5, **head_options(asdict(config)))
    slow_model, slow_head = copy.deepcopy(model), copy.deepcopy(head)
    losses, largest = slow_training(slow_model, slow_head, splits.faces, photos.tolist(), classes.tolist(), config)
    history = train_recogniser(model, head, splits.faces, photos, classes, config, device="cpu", progress=False)
    assert_same(model, slow_model)
    assert_same(head, slow_head)
    assert [row["loss"] for row in history] == pytest.approx(losses, rel=1e-4)
    assert [row["epoch"] for row in history] == list(range(config.epochs)) and not model.training
    assert (largest > 5) == (case != "an angular margin"), "some are to be clipped, and one is not"


def slow_recogniser(splits: Splits, people: list[int], config: TrainConfig) -> tuple[TinyNet, nn.Module]:
    """A fresh model and head, trained on the training photos of some people by the slow loop."""
    seed_everything(config.weights_seed)
    model, head = TinyNet(), make_head(config.loss, 6, len(people), **head_options(asdict(config)))
    photos = [i for i in splits.train.tolist() if splits.faces.labels[i] in people]
    classes = [sorted(people).index(splits.faces.labels[i]) for i in photos]
    slow_training(model, head, splits.faces, photos, classes, config)
    return model, head


@pytest.mark.parametrize("without_forget", [False, True])
def test_the_original_and_the_retrained_model_are_the_slow_loop_on_their_own_people(
    without_forget, splits, own_cache, monkeypatch
):
    monkeypatch.setattr(training, "make_backbone", lambda *_: TinyNet())
    config = TrainConfig(epochs=1, batch_size=16, learning_rate=0.02, margin=0.2, scale=12.0, weights_seed=4)
    people = [i for i in sorted(splits.forget + splits.dev_forget + splits.retain)]
    people = [i for i in people if not (without_forget and i in splits.forget)]
    model, head = slow_recogniser(splits, people, config)
    options = {"config": config, "without_forget": without_forget, "device": "cpu", "progress": False}
    found = load_or_train(splits, **options)
    assert_same(found.model, model)
    assert_same(found.head, head)
    assert (found.head.scale, found.head.margin, found.head.kind) == (12.0, 0.2, "cosface")


@pytest.mark.parametrize("trainable", [0, 1, 2])
@pytest.mark.parametrize("without_forget", [False, True])
def test_fine_tuning_is_the_slow_loop_from_the_centroids_with_a_frozen_front(
    trainable, without_forget, splits, own_cache, monkeypatch
):
    """The slow start: each person's mean direction over the training photos, in the order of the labels."""
    torch.manual_seed(8)
    start = TinyNet()
    for part in start.layers().values():  # statistics of its own, for frozen parts to keep
        for module in part[0]:
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    start.eval()
    monkeypatch.setattr(finetuning, "starting_model", lambda *_: copy.deepcopy(start))
    config = FinetuneConfig(
        epochs=1, batch_size=16, learning_rate=0.02, trainable=trainable, margin=0.2, scale=12.0, weights_seed=2
    )
    people = sorted({*splits.retain, *splits.dev_forget, *(() if without_forget else splits.forget)})
    photos = [i for i in splits.train.tolist() if splits.faces.labels[i] in people]
    model, head = copy.deepcopy(start), make_head("cosface", 6, len(people), **head_options(asdict(config)))
    with torch.no_grad():
        points = start((splits.faces.pixels.float() - 127.5) / 128)
        for row, person in enumerate(people):
            mine = [points[i] / points[i].norm() for i in photos if splits.faces.labels[i] == person]
            mean = sum(mine) / len(mine)
            head.weight[row] = mean / mean.norm()
    for name in start.layers():
        model.layers()[name][0].requires_grad_(name in ["stem", "embedding"][2 - trainable :])
    slow_training(model, head, splits.faces, photos, [people.index(splits.faces.labels[i]) for i in photos], config)
    options = {"config": config, "without_forget": without_forget, "device": "cpu", "progress": False}
    found = finetune(splits, **options)
    assert_same(found.model, model)
    assert_same(found.head, head)


def test_batches_are_every_photo_once_in_a_drawn_order_and_a_lone_one_is_left_out():
    photos = np.arange(100, 113)
    batches = list(epoch_batches(photos, 4, torch.Generator().manual_seed(0)))
    order = photos[torch.randperm(13, generator=torch.Generator().manual_seed(0)).numpy()]
    assert [batch.tolist() for batch in batches] == [order[k : k + 4].tolist() for k in (0, 4, 8)]
    pair = list(epoch_batches(photos[:6], 4, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in pair] == [4, 2] and len(set(np.concatenate(pair))) == 6


def test_every_epoch_draws_its_own_order_and_its_own_changes(splits, monkeypatch):
    """Otherwise a long training would see the same few pictures over and over."""
    seen, real = [], training.augment
    monkeypatch.setattr(training, "augment", lambda *given: seen.append(real(*given)) or seen[-1])
    photos, config = splits.train[:6], TrainConfig(epochs=2, batch_size=6, learning_rate=0.01)
    head = make_head("cosface", 6, 6)
    train_recogniser(TinyNet(), head, splits.faces, photos, np.arange(6), config, device="cpu", progress=False)
    first, second = (set(map(bytes, batch.flatten(1).numpy())) for batch in seen)
    assert not first & second


def test_trained_photos_are_the_training_photos_of_these_people_alone(splits):
    people = (splits.forget[0], splits.retain[1])
    expected = [i for i in range(len(splits.faces)) if i in splits.train and splits.faces.labels[i] in people]
    assert trained_photos(splits, people).tolist() == expected and expected


# ---------------------------------------------------------------------------------------------------- the augmentation


def reflected(place: float, side: int) -> float:
    """A coordinate mirrored at the outer edges of the first and last pixel, as often as need be."""
    place = abs((place + 0.5) % (2 * side))
    return min(max((2 * side - place if place > side else place) - 0.5, 0), side - 1)


def slow_move(face: Tensor, angle: float, zoom: float, shift: tuple[float, float], mirrored: bool) -> Tensor:
    """Look up every pixel of the result where it comes from, between four pixels of the face."""
    side, result = face.shape[-1], torch.zeros_like(face)
    for row in range(side):
        for column in range(side):
            x, y = ((2 * k + 1) / side - 1 for k in (column, row))
            flipped = -x if mirrored else x
            across = zoom * (math.cos(angle) * flipped - math.sin(angle) * y) + shift[0]
            down = zoom * (math.sin(angle) * flipped + math.cos(angle) * y) + shift[1]
            left, top = (reflected(((value + 1) * side - 1) / 2, side) for value in (across, down))
            for r in (math.floor(top), math.floor(top) + 1):
                for c in (math.floor(left), math.floor(left) + 1):
                    weight = (1 - abs(top - r)) * (1 - abs(left - c))
                    if r < side and c < side:
                        result[:, row, column] += weight * face[:, r, c]
    return result


def test_grey_is_brightness_in_all_channels_of_the_same_type():
    photos = torch.randint(0, 256, (5, 3, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    bright = sum(w * photos[:, k].double() for k, w in enumerate((0.299, 0.587, 0.114)))
    assert torch.equal(greyscale(photos), bright.round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1))
    assert greyscale(photos.float())[:, 1].double() == pytest.approx(bright, abs=1e-4)


@pytest.mark.parametrize(("grey", "tint"), [(0.0, 0.1), (0.25, 0.2)])
def test_augmentation_is_the_slow_one(splits, grey, tint):
    """Up to 0.2 rad, 15 % of zoom, 14 % of shift, half mirrored; light, tint and offset; a third partly covered."""
    photos = splits.faces.pixels[:24]
    found = augment(photos, torch.Generator().manual_seed(11), grey, tint)
    draw, count = torch.Generator().manual_seed(11), len(photos)

    def uniform(low: float, high: float, *shape: int) -> list:
        return (torch.rand(count, *shape, generator=draw).double() * (high - low) + low).tolist()

    angle, zoom, shift, coin = uniform(-0.2, 0.2), uniform(0.85, 1.15), uniform(-0.14, 0.14, 2), uniform(0, 1)
    paled = uniform(0, 1) if grey else [1.0] * count
    gain, tints, offset = uniform(0.85, 1.15), uniform(1 - tint, 1 + tint, 3), uniform(-12, 12)
    centre, half, cover, colour = uniform(0, 1, 2), uniform(0.07, 0.22, 2), uniform(0, 1), uniform(0, 255, 3)
    hidden = 0
    for i, photo in enumerate(photos.double()):
        wanted = slow_move(photo, angle[i], zoom[i], shift[i], coin[i] < 0.5)
        if paled[i] < grey:
            wanted = (0.299 * wanted[0] + 0.587 * wanted[1] + 0.114 * wanted[2]).repeat(3, 1, 1)
        for channel in range(3):
            wanted[channel] = wanted[channel] * gain[i] * tints[i][channel] + offset[i]
        for row in range(SIDE):
            for column in range(SIDE):
                places = [(k / (SIDE - 1), centre[i][axis], half[i][axis]) for axis, k in ((0, column), (1, row))]
                if cover[i] < 0.35 and all(abs(place - middle) < size for place, middle, size in places):
                    wanted[:, row, column] = torch.tensor(colour[i])
                    hidden += 1
        wanted = wanted.round().clamp(0, 255)
        assert (found[i].double() - wanted).abs().max() <= 1, i  # a half may be rounded to either side
        assert (found[i].double() != wanted).float().mean() < 0.02, i
    assert hidden > 10 and 4 < sum(value < 0.5 for value in coin) < 20


# ----------------------------------------------------------------------------------------------------------- the heads


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
def test_a_centroid_head_is_the_slow_mean_of_unit_points_with_its_own_options(kind):
    draw = torch.Generator().manual_seed(2)
    points, classes = torch.randn(11, 5, generator=draw) * 3, torch.tensor([2, 0, 1, 2, 2, 0, 1, 0, 2, 1, 1])
    head = head_from_centroids(kind, points, classes, 3, scale=11.0, margin=0.15)
    for row in range(3):
        mine = [point / point.norm() for point, label in zip(points, classes.tolist(), strict=True) if label == row]
        mean = sum(mine) / len(mine)
        assert torch.allclose(head.weight[row], mean / mean.norm(), atol=1e-6)
    assert (head.kind, head.scale, head.margin) == (kind, 11.0, 0.15)
    config = TrainConfig(loss=kind, scale=11.0, margin=0.15)
    labels = torch.tensor([0, 1, 2, 0])
    assert torch.allclose(
        head(points[:4], labels), torch.stack(slow_logits(points[:4], head, labels.tolist(), config)), atol=1e-4
    )
    plain = torch.stack(slow_logits(points[:4], head, labels.tolist(), replace(config, margin=0.0, loss="cosface")))
    assert torch.allclose(head(points[:4]), plain, atol=1e-4)
    assert torch.allclose(head(points[:4], scale=4.0), plain * 4 / 11, atol=1e-4)


def test_a_head_has_prototypes_of_length_one_and_the_margin_of_its_paper():
    for kind, margin in (("cosface", 0.35), ("arcface", 0.5)):
        head = make_head(kind, 7, 4)
        assert torch.allclose(head.weight.norm(dim=1), torch.ones(4)) and (head.scale, head.margin) == (32.0, margin)


# ----------------------------------------------------------------------------------------------------------- the seeds


def test_a_random_start_of_a_fine_tuning_follows_the_weights_seed_alone(splits, own_cache, monkeypatch):
    monkeypatch.setattr(finetuning, "make_backbone", lambda *_: TinyNet())
    starts = []
    monkeypatch.setattr(
        finetuning, "_finetune_now", lambda model, *_: starts.append(model) or Recogniser(model, nn.Linear(1, 1), "")
    )
    monkeypatch.setattr(finetuning, "keep_recogniser", lambda *_: None)
    for before, seed in ((1, 0), (2, 0), (3, 5)):
        torch.manual_seed(before)
        config = FinetuneConfig(weights_seed=seed, epochs=1)
        finetune(splits, start="none", config=config, device="cpu", progress=False)
    weights = [start.last[1].weight for start in starts]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_another_weights_seed_is_another_start_another_order_and_other_changes(splits, monkeypatch):
    starts, pictures = [], []
    real = training.augment
    monkeypatch.setattr(training, "make_backbone", lambda *_: starts.append(TinyNet()) or copy.deepcopy(starts[-1]))
    monkeypatch.setattr(training, "augment", lambda *given: pictures.append(real(*given)) or pictures[-1])
    for seed in (0, 1, 0):
        config = TrainConfig(epochs=1, batch_size=64, weights_seed=seed)
        train_from_scratch(splits, splits.trained, "mini", config, CPU, False)
    weights = [start.last[1].weight for start in starts]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    assert torch.equal(pictures[0], pictures[2]) and not torch.equal(pictures[0], pictures[1])


@pytest.mark.parametrize("wrong", [{"grey": 2}, {"grey": -0.1}, {"tint": 1.5}, {"tint": math.nan}])
def test_a_share_of_grey_or_tint_lies_between_nothing_and_all(wrong):
    with pytest.raises(CourseError, match="shares from 0 to 1"):
        TrainConfig(**wrong)
