"""SSD, LFSSD, SalUn and L1-sparse against slow references, and what goes wrong when their small print is skipped."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from one_step import (
    after_one_step,
    assert_same_step,
    mean_name_loss,
    ordinary_loss,
    own_rows,
    twin,
    vector,
    watch_batches,
)
from torch import nn

from utils.settings import CourseError
from utils.unlearning.loop import forward, unlearn
from utils.unlearning.methods import pruning
from utils.unlearning.methods.labels import draw_wrong_labels
from utils.unlearning.methods.pruning import (
    L1SparseConfig,
    backbone_weights,
    damping_factors,
    hold_unmasked,
    importances,
    l1_norm,
    penalty_at,
    saliency,
    thinned_weights,
    top_share,
)
from utils.unlearning.registry import METHODS, make_config

DAMPING = ("ssd", "lfssd")
SALUN = ("salun", "salun_fixed")


def run(name, task, **config):
    METHODS[name].run(task, make_config(name, config))
    return task


def weights_of(model) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def slow_gradients(task, photos, loss_of) -> list[torch.Tensor]:
    """The gradient of a loss over some photos, by plain backward on a copy of the model."""
    model = copy.deepcopy(task.model).eval()
    faces = torch.from_numpy(np.asarray(task.splits.faces.pixels)[photos])
    if faces.shape[-1] == 3:
        faces = faces.permute(0, 3, 1, 2)
    x = ((faces.float() - 127.5) / 128).contiguous(memory_format=torch.channels_last)
    z = model(x)
    loss_of(z / z.norm(dim=1, keepdim=True), photos).backward()
    return [weight.grad.double() for weight in model.parameters()]


def names_loss(task, reduction="mean"):
    rows = {person: row for row, person in enumerate(task.splits.trained)}
    w = task.head.weight.detach() / task.head.weight.detach().norm(dim=1, keepdim=True)

    def loss(z, photos):
        logits = 16.0 * z @ w.T
        own = torch.tensor([rows[int(label)] for label in task.splits.faces.labels[photos]])
        each = torch.logsumexp(logits, dim=1) - logits[torch.arange(len(own)), own]
        return each.mean() if reduction == "mean" else each.sum()

    return loss


def lengths_loss(task):
    w = task.head.weight.detach() / task.head.weight.detach().norm(dim=1, keepdim=True)
    return lambda z, photos: ((z @ w.T) ** 2).sum(1).mean()


# ---------------------------------------------------------------------------------------------------- SSD and LFSSD


def test_importances_are_the_mean_of_squared_batch_mean_gradients(task):
    photos, loss = task.retain_train_photos[:21], names_loss(task)
    expected = [torch.zeros_like(w, dtype=torch.float64) for w in task.model.parameters()]
    for batch in (photos[:7], photos[7:14], photos[14:]):
        for total, gradient in zip(expected, slow_gradients(task, batch, loss), strict=True):
            total += gradient**2 / 3
    found = importances(task, photos, loss, batch_size=9, power=2)
    assert task.images_processed == 21
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6 * float(b.max()))


def test_damping_factors_one_weight_at_a_time():
    rng = np.random.default_rng(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    for alpha, strength in ((1.0, 1.0), (0.5, 1.0), (2.0, 0.1), (0.2, 5.0), (1e9, 1.0)):
        for weight in net.parameters():
            forget, whole = (rng.exponential(size=tuple(weight.shape)) for _ in range(2))
            forget.flat[0] = whole.flat[0] = 0.0
            found = damping_factors(torch.from_numpy(forget), torch.from_numpy(whole), alpha, strength)
            for f, d, factor in zip(forget.flat, whole.flat, found.flatten().tolist(), strict=True):
                expected = min(strength * d / f, 1.0) if f > alpha * d else 1.0
                assert factor == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", DAMPING)
@pytest.mark.parametrize("alpha, strength", [(1.0, 1.0), (0.3, 2.0), (2.0, 0.1)])
def test_damping_equals_a_reference_with_one_batch(name, alpha, strength, task):
    everybody, forget = task.splits.train, task.forget_photos
    loss, power = (names_loss(task), 2) if name == "ssd" else (lengths_loss(task), 1)
    i_whole, i_forget = (slow_gradients(task, photos, loss) for photos in (everybody, forget))
    before = weights_of(task.model)
    run(name, task, alpha=alpha, strength=strength, batch_size=10_000)
    wrong = count = 0
    for theta, new, f, d in zip(before, weights_of(task.model), i_forget, i_whole, strict=True):
        f, d = f.abs() ** power, d.abs() ** power
        expected = torch.where(
            f > alpha * d, torch.minimum(strength * d / f, torch.ones_like(f)) * theta, theta.double()
        )
        wrong += int((~torch.isclose(new.double(), expected, rtol=2e-2, atol=1e-6)).sum())
        count += new.numel()
    assert wrong < 2e-3 * count  # a weight close to the threshold may fall on either side of it
    assert 0 < task.history[0]["damped"] < 1


@pytest.mark.parametrize("name", DAMPING)
def test_damping_never_enlarges_a_weight_nor_touches_head_and_statistics(name, task):
    before, head = weights_of(task.model), task.head.weight.clone()
    buffers = {key: value.clone() for key, value in task.model.named_buffers()}
    run(name, task, alpha=0.5, strength=3.0)
    after = weights_of(task.model)
    assert all((new.abs() <= old.abs()).all() for new, old in zip(after, before, strict=True))
    assert any(not torch.equal(new, old) for new, old in zip(after, before, strict=True))
    assert torch.equal(head, task.head.weight)
    assert all(torch.equal(value, buffers[key]) for key, value in task.model.named_buffers())
    assert task.images_processed == len(task.splits.train) + len(task.forget_photos)


@pytest.mark.parametrize("name", DAMPING)
def test_with_a_huge_alpha_nothing_is_damped(name, task):
    before = weights_of(task.model)
    run(name, task, alpha=1e30, strength=1.0)
    assert all(torch.equal(new, old) for new, old in zip(weights_of(task.model), before, strict=True))
    assert task.history == [{"step": 0, "damped": 0.0}]


@pytest.mark.parametrize("name", DAMPING)
def test_damping_moves_forget_points_and_repeats_itself(name, tiny_recogniser, tiny_splits):
    model, head = tiny_recogniser.model, tiny_recogniser.head
    before = weights_of(model)
    runs = [
        unlearn(name, model, head, tiny_splits, device="cpu", progress=False, alpha=1.0, batch_size=16, max_photos=40)
        for _ in range(2)
    ]
    states = [outcome.model.state_dict() for outcome in runs]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(new, old) for new, old in zip(weights_of(model), before, strict=True))
    assert runs[0].images_processed == 40 + len(tiny_splits.photos("forget", "train"))


def test_lfssd_on_unit_embeddings_has_no_gradient(task):
    """The defect: the squared length of a normalised output is one, whatever the weights."""
    photos = task.forget_photos[:8]
    naive = slow_gradients(task, photos, lambda z, _: z.square().sum(1).mean())
    ours = slow_gradients(task, photos, lengths_loss(task))
    largest = [max(float(g.abs().max()) for g in gradients) for gradients in (naive, ours)]
    assert largest[0] < 1e-3 * largest[1]


def test_resetting_direct_children_only_is_no_retraining():
    """The defect: a network's blocks are its grandchildren, and keep all that they learned."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten(), nn.Linear(4, 2))
    learned = [weight.clone() for weight in net.parameters()]
    for child in net.children():
        if hasattr(child, "reset_parameters"):
            child.reset_parameters()
    kept = [torch.equal(new, old) for new, old in zip(net.parameters(), learned, strict=True)]
    assert kept == [True, True, False, False]
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert not any(torch.equal(new, old) for new, old in zip(net.parameters(), learned, strict=True))


# ------------------------------------------------------------------------------------------------------------ SalUn


def test_saliency_is_the_size_of_the_forget_sets_gradient(task, monkeypatch):
    monkeypatch.setattr("utils.unlearning.methods.pruning.PHOTOS_AT_ONCE", 5)
    expected = slow_gradients(task, task.forget_photos, names_loss(task, "sum"))
    found = saliency(task, 16.0)
    assert task.images_processed == len(task.forget_photos)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.abs(), rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_masks_hold_the_top_share_over_all_tensors():
    scores = [torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0.7, 0.3, 0.0, 0.05, 0.6, 0.01])]
    masks = top_share(scores, 0.4)
    assert masks[0].tolist() == [[True, False], [False, True]]
    assert masks[1].tolist() == [True, False, False, False, True, False]
    rng = torch.Generator().manual_seed(0)
    tied = [torch.randint(0, 3, (50,), generator=rng).double(), torch.zeros(50, dtype=torch.float64)]
    assert sum(int(mask.sum()) for mask in top_share(tied, 0.25)) == 25
    assert all(mask.all() for mask in top_share(tied, 1.0))


@pytest.mark.parametrize("name", SALUN)
def test_salun_leaves_the_complement_bit_for_bit(name, task):
    scores = slow_gradients(task, task.forget_photos, names_loss(task, "sum"))
    ranked = np.sort(torch.cat([score.abs().flatten() for score in scores]).numpy())[::-1]
    threshold = ranked[round(0.2 * len(ranked)) - 1]
    before = weights_of(task.model)
    run(name, task, rho=0.2, steps=3)
    moved = [new != old for new, old in zip(weights_of(task.model), before, strict=True)]
    share = sum(int(m.sum()) for m in moved) / len(ranked)
    assert 0.19 < share <= round(0.2 * len(ranked)) / len(ranked)
    for places, score in zip(moved, scores, strict=True):
        assert (score.abs()[places] > 0.99 * threshold).all()


def small_net_and_mask():
    torch.manual_seed(0)
    net = nn.Linear(6, 4)
    masks = [torch.rand(weight.shape) < 0.5 for weight in net.parameters()]
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    x, y = torch.randn(16, 6), torch.randint(0, 4, (16,))
    F.cross_entropy(net(x), y).backward()
    optimiser.step()  # one unmasked step fills the momentum
    return net, masks, optimiser, x, y


def masked_steps(net, masks, optimiser, x, y, after_step):
    for step in range(5):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        for weight, mask in zip(net.parameters(), masks, strict=True):
            weight.grad *= mask
        optimiser.step()
        after_step(step)


def test_masking_gradients_alone_leaks():
    """The defect: weight decay and momentum move a weight whose gradient is zero."""
    net, masks, *rest = small_net_and_mask()
    before = weights_of(net)
    masked_steps(net, masks, *rest, after_step=lambda step: None)
    for new, old, mask in zip(net.parameters(), before, masks, strict=True):
        assert (new != old)[~mask].all()


def test_holding_the_complement_survives_weight_decay_and_momentum():
    net, masks, *rest = small_net_and_mask()
    before = weights_of(net)
    masked_steps(net, masks, *rest, after_step=hold_unmasked(list(net.parameters()), masks))
    for new, old, mask in zip(net.parameters(), before, masks, strict=True):
        assert torch.equal(new[~mask], old[~mask]) and (new != old)[mask].all()


def watch_names(monkeypatch) -> list[dict[int, int]]:
    """Return a list that will hold the wrong names of every step to come: {photo: head row}."""
    seen, relabel = [], pruning.relabel

    def watched(task, config, wrong_names, **how):
        def names(batch):
            rows = wrong_names(batch)
            seen.append(dict(zip(batch.forget_photos.tolist(), rows.tolist(), strict=True)))
            return rows

        relabel(task, config, names, **how)

    monkeypatch.setattr(pruning, "relabel", watched)
    return seen


def test_saluns_labels_are_drawn_anew_at_every_step_from_all_names(task, monkeypatch):
    """As in the authors' code: randint over all classes, so that the true name comes up as often as any."""
    seen, names = watch_names(monkeypatch), len(task.head.weight)
    run("salun", task, steps=12, photos_per_identity=12, retain_per_step=0)
    own = dict(zip(task.forget_photos.tolist(), own_rows(task, task.forget_photos), strict=True))
    assert len(seen) == 12 and all(set(step) == set(own) for step in seen)
    assert all(len({step[photo] for step in seen}) > 1 for photo in own)
    counts = np.bincount([row for step in seen for row in step.values()], minlength=names)
    expected = 12 * len(own) / names
    assert len(counts) == names and (abs(counts - expected) < 4 * expected**0.5).all()
    truths = sum(step[photo] == own[photo] for step in seen for photo in own)
    assert abs(truths - expected) < 4 * expected**0.5


def test_the_fixed_variants_labels_stay_and_are_never_a_forget_identity(task, monkeypatch):
    seen = watch_names(monkeypatch)
    run("salun_fixed", task, steps=4, photos_per_identity=12, retain_per_step=0)
    assert len(seen) == 4 and set(seen[0]) == set(task.forget_photos.tolist())
    assert all(step == seen[0] for step in seen[1:])
    assert set(seen[0].values()) <= set(task.retain_train_columns.tolist()) and len(set(seen[0].values())) > 2


@pytest.mark.parametrize("name", SALUN)
def test_one_masked_step_equals_the_slow_reference(name, task, monkeypatch):
    drawn, photos = watch_names(monkeypatch), watch_batches(monkeypatch)
    reference, before = twin(task), vector(task.model.parameters())
    scores = slow_gradients(task, task.forget_photos, names_loss(task, "sum"))
    scores = torch.cat([score.abs().flatten() for score in scores])
    threshold = scores.sort(descending=True).values[round(0.3 * len(scores)) - 1]
    small = {"steps": 1, "photos_per_identity": 3, "retain_per_step": 5, "learning_rate": 1e-3, "retain_weight": 0.3}
    run(name, task, rho=0.3, **small)
    ((forget, retain),) = photos
    rows = list(drawn[0].values())
    if name == "salun_fixed":
        rows = draw_wrong_labels(reference)[torch.from_numpy(forget)]

    def loss(task):
        return mean_name_loss(task, forget, rows, 16.0) + 0.3 * ordinary_loss(task, retain)

    assert sum(task.history[0][part] for part in ("forget", "retain")) == pytest.approx(
        loss(reference).item(), rel=1e-6
    )
    moved = after_one_step(reference, loss, 1e-3)
    expected = torch.where(scores >= threshold, moved, before)
    assert_same_step(expected, task.model.parameters(), before, 1e-3)
    assert (vector(task.model.parameters())[scores < 0.99 * threshold] == before[scores < 0.99 * threshold]).all()


def test_salun_with_all_weights_is_random_labels(tiny_recogniser, tiny_splits):
    models = [
        unlearn(
            name, tiny_recogniser.model, tiny_recogniser.head, tiny_splits, device="cpu", progress=False,
            steps=3, learning_rate=1e-3, retain_per_step=8, retain_weight=0.5, **options,
        ).model.state_dict()
        for name, options in (("salun_fixed", {"rho": 1.0}), ("random_labels", {}))
    ]  # fmt: skip
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_salun_refuses_to_rank_weights_without_a_gradient(task):
    """At a large scale the loss of a well-known person is exactly zero, and ties would decide the mask."""
    with torch.no_grad():
        points = F.normalize(forward(task, task.forget_photos))
        task.head.weight.fill_(0.0)[:, 0] = 1.0
        for row in task.forget_columns:
            task.head.weight[row] = F.normalize(points[task.head_rows(task.forget_photos) == row].mean(0), dim=0)
    with pytest.raises(CourseError, match="forget_scale 1000000.0 .* lower it"):
        saliency(task, 1e6)


# -------------------------------------------------------------------------------------------------------- L1-sparse


def test_l1_norm_by_hand_without_batchnorm_and_foreign_classifier():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False))
    net.logits = nn.Module()
    net.logits.logits = nn.Linear(2, 9)  # named as in facenet-pytorch: something.logits.weight
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.5]]))
        net[0].bias.copy_(torch.tensor([-1.0, 0.25]))
        net[2].weight.copy_(torch.tensor([[3.0, -0.25]]))
    value = l1_norm(thinned_weights(net))
    assert value.item() == 8.0
    (gradient,) = torch.autograd.grad(value, [net[0].weight])
    assert gradient.tolist() == [[1.0, -1.0], [0.0, 1.0]]


def test_the_penalty_falls_to_zero_before_the_end():
    config = L1SparseConfig(steps=10, penalty=1.0, free_share=0.2)
    found = [penalty_at(step, config) for step in range(10)]
    assert found == pytest.approx([1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0])
    assert penalty_at(9, L1SparseConfig(steps=10, penalty=1.0, free_share=0.0)) == pytest.approx(0.1)


def test_the_diary_holds_the_penalty_of_every_step(task):
    norm = sum(float(w.detach().double().abs().sum()) for w in thinned_weights(task.model))
    run("l1_sparse", task, steps=2, penalty=1e-3, learning_rate=1e-5, free_share=0.0)
    assert [entry["sparsity"] for entry in task.history] == pytest.approx([1e-3 * norm, 0.5e-3 * norm], rel=1e-2)


def test_l1_sparse_without_penalty_is_finetune_and_with_it_shrinks_weights(tiny_recogniser, tiny_splits):
    def result(name, **options):
        options = {"steps": 4, "learning_rate": 1e-3, "retain_per_step": 16} | options
        model, head = tiny_recogniser.model, tiny_recogniser.head
        return unlearn(name, model, head, tiny_splits, device="cpu", progress=False, **options).model

    plain, free, sparse = result("finetune"), result("l1_sparse", penalty=0.0), result("l1_sparse", penalty=1.0)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), free.parameters(), strict=True))
    assert l1_norm(thinned_weights(sparse)) < l1_norm(thinned_weights(plain))


def test_l1_sparse_never_reads_a_forget_photo(task, monkeypatch):
    seen, images = [], type(task.splits.faces).images

    def watched(faces, indices):
        seen.extend(np.asarray(indices).tolist())
        return images(faces, indices)

    monkeypatch.setattr(type(task.splits.faces), "images", watched)
    run("l1_sparse", task, steps=3)
    assert seen and set(seen) <= set(task.retain_train_photos.tolist())


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "name, config, told",
    [
        ("ssd", {"batch_size": 0}, "at least 1, not 0"),
        ("lfssd", {"max_photos": 0}, "at least 1"),
        ("lfssd", {"alpha": -1.0}, "negative"),
        ("ssd", {"forget_scale": 0.0}, "above 0"),
        ("lfssd", {"forget_scale": 16.0}, "no option 'forget_scale'"),
        ("salun", {"rho": 0.0}, "rho is the share"),
        ("salun", {"rho": 1.5}, "rho is the share"),
        ("l1_sparse", {"free_share": 1.0}, "below 1"),
        ("l1_sparse", {"retain_per_step": 0}, "needs retained photos"),
        ("salun", {"learning_rate": 1e6, "steps": 20}, "diverged at step"),
        ("l1_sparse", {"learning_rate": 1e6, "steps": 20}, "diverged at step"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, config, told, tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match=told):
        unlearn(name, tiny_recogniser.model, tiny_recogniser.head, tiny_splits, device="cpu", progress=False, **config)


def test_backbone_weights_are_all_of_the_small_model(task):
    assert len(backbone_weights(task.model)) == len(list(task.model.parameters()))
