"""What retraining hands over, and damping over several batches, weight by weight."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from slow_steps import as_input, points_of, surprise, unit

from utils.models.checkpoints import Recogniser, TrainConfig
from utils.unlearning.loop import unlearn
from utils.unlearning.methods import pruning, references

pytestmark = pytest.mark.filterwarnings("ignore:The head names")


def test_retraining_asks_for_a_fresh_network_of_the_same_kind_without_the_forgotten(toy_world, monkeypatch):
    asked, trained = [], Recogniser(copy.deepcopy(toy_world[0]), copy.deepcopy(toy_world[1]), "trained", 12.5)
    monkeypatch.setattr(references, "load_or_train", lambda *args, **options: asked.append((args, options)) or trained)
    outcome = unlearn("retrain", *toy_world, device="cpu", progress=False, epochs=7, learning_rate=0.05)
    splits = toy_world[2]
    wanted = {
        "backbone": "mini", "pretrained": "none", "config": TrainConfig(epochs=7, learning_rate=0.05),
        "without_forget": True, "device": torch.device("cpu"), "progress": False,
    }  # fmt: skip
    assert asked == [((splits,), wanted)]
    assert outcome.model is trained.model and outcome.trained_head is trained.head and outcome.seconds == 12.5
    stay = [i for i in splits.train if splits.faces.labels[i] not in splits.forget]
    assert outcome.images_processed == 7 * len(stay)


@pytest.mark.parametrize("name", ["ssd", "lfssd"])
def test_damping_over_several_batches_is_the_slow_reference(name, toy_world, monkeypatch):
    """Importance: the mean over batches of the squared (SSD) or plain (LFSSD) size of the batch's mean slope."""
    model, head, splits = copy.deepcopy(toy_world[0]).double(), toy_world[1], toy_world[2]
    batches, forward, rows = [], pruning.forward, head.weight.detach().double()
    monkeypatch.setattr(pruning, "forward", lambda task, photos: batches.append(photos) or forward(task, photos))
    options = {"alpha": 1.2, "strength": 0.8, "batch_size": 7, "max_photos": 30}
    options |= {"forget_scale": 9.0} if name == "ssd" else {}
    outcome = unlearn(name, *toy_world, seed=2, device="cpu", progress=False, **options)
    forget = [i for i in splits.train.tolist() if splits.faces.labels[i] in splits.forget]
    whole, own = batches[: math.ceil(30 / 7)], batches[math.ceil(30 / 7) :]
    looked = np.concatenate(whole).tolist()
    assert len(set(looked)) == 30 and set(looked) <= set(splits.train.tolist())
    assert set(forget) & set(looked) and set(looked) - set(forget), "the whole training set, the forgotten among them"
    assert sorted(np.concatenate(own).tolist()) == forget != np.concatenate(own).tolist(), "dealt in a drawn order"
    assert sorted({len(batch) for batch in (*whole, *own)})[0] >= 5, "batches of equal size, but for one photo"

    def loss(photos) -> torch.Tensor:
        points = points_of(model, as_input(splits.faces.images(photos)))
        if name == "lfssd":
            return sum(sum((unit(row) * z).sum() ** 2 for row in rows) for z in points) / len(points)
        names = [splits.trained.index(person) for person in splits.faces.labels[photos].tolist()]
        return sum(surprise(z, rows, k, 9.0) for z, k in zip(points, names, strict=True)) / len(points)

    def importance(dealt) -> torch.Tensor:
        slopes = [torch.autograd.grad(loss(photos), list(model.parameters())) for photos in dealt]
        sizes = [torch.cat([slope.flatten() for slope in batch]).abs() for batch in slopes]
        return sum(size**2 if name == "ssd" else size for size in sizes) / len(sizes)

    f, d = importance(own), importance(whole)
    old, new = (torch.cat([w.detach().flatten() for w in m.parameters()]).double() for m in (model, outcome.model))
    factor = torch.where(f > 1.2 * d, (0.8 * d / f).clamp(max=1.0), torch.ones_like(f))
    assert 0.05 < float((factor < 1).double().mean()) < 0.95
    wrong = (new - factor * old).abs() > 1e-4 * old.abs() + 1e-7
    assert float(wrong.double().mean()) < 2e-3  # a weight at the threshold may fall on either side
    assert outcome.history[0]["damped"] == pytest.approx(float((factor < 1).double().mean()), abs=2e-3)
