"""Adapters: where they sit, that they start as nothing, and that nothing of them is left at the end."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils.models.embedding import embed
from utils.settings import CourseError
from utils.unlearning.loop import unlearn
from utils.unlearning.methods.adapters import LowRank, attach_adapters, last_layers, merge_adapters
from utils.unlearning.registry import METHODS, make_config


def run(recogniser, splits, **config):
    config = {"steps": 3, "retain_per_step": 8} | config
    return unlearn("gs_lora", recogniser.model, recogniser.head, splits, device="cpu", progress=False, **config)


ADAPTED = {
    "stages.2.conv1.weight",
    "stages.2.conv2.weight",
    "stages.2.shortcut.0.weight",
    "embedding.1.weight",
}


def test_adapters_sit_on_the_last_stage_and_the_embedding_layer(task):
    names = {id(module): f"{name}.weight" for name, module in task.model.named_modules()}
    assert {names[id(layer)] for layer in last_layers(task.model)} == ADAPTED
    assert not any(module._forward_hooks for module in task.model.modules()), "hooks were left behind"


def test_layers_are_picked_by_what_runs_not_by_the_order_of_definition():
    class Odd(nn.Module):
        input_size, device = 8, torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.late = nn.Linear(4, 2)
            self.last = nn.Conv2d(4, 4, 1, stride=4)
            self.first = nn.Conv2d(3, 4, 1)
            self.unused = nn.Linear(9, 9)

        def forward(self, x):
            return self.late(self.last(self.first(x)).mean((2, 3)))

    model = Odd()
    assert last_layers(model) == [model.last, model.late]


def test_an_adapter_adds_up_times_down():
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    adapter = LowRank(weight, 2, torch.Generator().manual_seed(1))
    assert torch.equal(adapter(weight), weight)
    with torch.no_grad():
        adapter.up.copy_(torch.randn(5, 2))
    expected = weight.clone()
    for o, i, y, x in np.ndindex(5, 3, 2, 2):
        expected[o, i, y, x] += sum(adapter.up[o, r] * adapter.down[r, i * 4 + y * 2 + x] for r in range(2))
    torch.testing.assert_close(adapter(weight), expected)
    assert torch.linalg.matrix_rank((adapter(weight) - weight).flatten(1)) == 2
    numbers = [*adapter.up.flatten().tolist(), *adapter.down.flatten().tolist()]
    assert adapter.size().item() == pytest.approx(math.sqrt(sum(v * v for v in numbers)), rel=1e-5)


def test_fresh_adapters_change_nothing_and_merging_leaves_plain_weights(task):
    before, keys = embed(task.model, task.splits.faces, task.forget_photos), list(task.model.state_dict())
    convolutions = [m for m in task.model.modules() if isinstance(m, nn.Conv2d)]
    adapters = attach_adapters(task, rank=4)
    assert len(adapters) == 4 and not task.head.weight.requires_grad
    learning = [name for name, p in task.model.named_parameters() if p.requires_grad]
    assert len(learning) == 8 and all(name.endswith((".up", ".down")) for name in learning)
    torch.testing.assert_close(embed(task.model, task.splits.faces, task.forget_photos), before)
    with torch.no_grad():
        adapters[0].up.add_(0.05)
    adapted = embed(task.model, task.splits.faces, task.forget_photos)
    assert not torch.allclose(adapted, before, atol=1e-3)
    merge_adapters(task.model)
    torch.testing.assert_close(embed(task.model, task.splits.faces, task.forget_photos), adapted, atol=1e-5, rtol=0)
    assert list(task.model.state_dict()) == keys
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in task.model.parameters())


def test_the_result_is_a_plain_model_in_which_only_adapted_weights_moved(tiny_recogniser, tiny_splits):
    before = {key: value.clone() for key, value in tiny_recogniser.model.state_dict().items()}
    outcome = run(tiny_recogniser, tiny_splits, rank=2)
    after = outcome.model.state_dict()
    assert list(before) == list(after)
    assert {key for key in before if not torch.equal(before[key], after[key])} == ADAPTED
    for key in ADAPTED:
        assert torch.linalg.matrix_rank((after[key] - before[key]).flatten(1), rtol=1e-3) <= 2
    assert type(outcome.model.embedding[1]) is nn.Linear
    assert torch.equal(outcome.trained_head.weight, tiny_recogniser.head.weight)
    assert all(p.requires_grad for p in outcome.model.parameters())
    copied = copy.deepcopy(outcome.model)
    copied.load_state_dict(before)


def test_losses_agree_with_a_slow_computation(task, monkeypatch):
    head, points = task.head, embed(task.model, task.splits.faces).double()
    images, seen = type(task.splits.faces).images, []
    monkeypatch.setattr(
        type(task.splits.faces), "images", lambda faces, i: (seen.append(np.asarray(i)), images(faces, i))[1]
    )
    options = {"steps": 2, "retain_per_step": 5, "photos_per_identity": 3, "beta": 0.5, "bound": 3.0, "rank": 3}
    METHODS["gs_lora"].run(task, make_config("gs_lora", options | {"sparse_weight": 0.1, "learning_rate": 0.0}))
    forget, retain = seen[-1][:6], seen[-1][6:]
    cosines = (points @ F.normalize(head.weight).double().T).numpy()

    def surprise(photo, scale, margin):
        row = int(task.splits.class_of(task.splits.faces.labels[photo]))
        logits = cosines[photo].copy()
        logits[row] -= margin
        return np.log(np.exp(scale * logits).sum()) - scale * logits[row]

    entry = task.history[1]
    ce_f = np.mean([surprise(i, 16.0, 0.0) for i in forget])
    ce_r = np.mean([surprise(i, head.scale, head.margin) for i in retain])
    assert entry["forget"] == pytest.approx(0.5 * (3 * math.log(len(head.weight)) - ce_f), rel=1e-3)
    assert entry["retain"] == pytest.approx(ce_r, rel=1e-3)
    assert "sparsity" not in task.history[0], "as in the paper, size is free at the beginning"
    assert entry["sparsity"] > 0


def test_the_ascent_has_no_force_beyond_its_bound(tiny_recogniser, tiny_splits):
    assert run(tiny_recogniser, tiny_splits, bound=0.0).history[0]["forget"] == 0.0


def test_ascent_raises_the_forget_loss(tiny_recogniser, tiny_splits):
    photos = tiny_splits.photos("forget", "train")
    rows = torch.from_numpy(tiny_splits.class_of(tiny_splits.faces.labels[photos]))
    outcome = run(tiny_recogniser, tiny_splits, steps=20, learning_rate=1e-2)
    before, after = (
        F.cross_entropy(tiny_recogniser.head(embed(m, tiny_splits.faces, photos), scale=16.0), rows).item()
        for m in (tiny_recogniser.model, outcome.model)
    )
    assert after > before + 0.5


def test_a_heavy_group_penalty_shrinks_the_adapters(tiny_recogniser, tiny_splits):
    options = {"steps": 15, "learning_rate": 1e-2, "beta": 0.0}
    sizes = []
    for weight in (1e-6, 10.0):
        history = run(tiny_recogniser, tiny_splits, sparse_weight=weight, **options).history
        sizes.append(history[-1]["sparsity"] / weight)
    assert sizes[1] < 0.95 * sizes[0]


def test_early_stopping_goes_back_inside_the_adapters(tiny_recogniser, tiny_splits):
    options = {"steps": 30, "learning_rate": 5e-2, "beta": 5.0, "bound": 5.0, "check_every": 3, "max_dev_loss": 0.02}
    outcome = run(tiny_recogniser, tiny_splits, **options)
    assert any("dev_map" in entry for entry in outcome.history)
    assert list(outcome.model.state_dict()) == list(tiny_recogniser.model.state_dict())
    if len(outcome.history) == 3:  # the first check failed: the weights are those of the start
        for key, value in tiny_recogniser.model.state_dict().items():
            torch.testing.assert_close(outcome.model.state_dict()[key], value)


def test_a_moving_head_is_refused():
    with pytest.raises(CourseError, match="leave trainable at 'backbone'"):
        make_config("gs_lora", {"trainable": "both"})


@pytest.mark.parametrize(
    "config, told",
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"retain_per_step": 0}, "'gs_lora' needs retained photos"),
        ({"learning_rate": 1e6}, "diverged at step"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, told, tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match=told):
        run(tiny_recogniser, tiny_splits, **config)
