"""Attackers who hold the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.augmentation import augment
from ..models.backbones import FaceBackbone
from ..models.embedding import embed
from ..models.heads import head_from_centroids
from ..settings import resolve_device
from .case import PHOTOS_AT_ONCE, AuditCase, Subject, attack, cannot, plain_search, sample, searched
from .names import share_first


def whitened(case: AuditCase, parts: Sequence[str], photos: np.ndarray, subject: Subject | None = None) -> Tensor:
    """Return parts' features side by side (n, c), scaled so that retained people's own photos vary equally all round.

    What differs between photos of one retained person is noise to a search: its directions are shrunk. Unit rows.
    """
    subject, known = subject or case.subject, sample(case.splits)

    def joined(chosen: np.ndarray) -> Tensor:
        return torch.cat([subject.rows(chosen, part) for part in parts], dim=1).double()

    rows, labels = joined(known), case.labels(known)
    centre, spread = rows.mean(dim=0), rows.std(dim=0).clamp(min=1e-6)
    rows = (rows - centre) / spread
    means = torch.stack([rows[torch.from_numpy(labels == person)].mean(dim=0) for person in np.unique(labels)])
    noise = rows - means[torch.from_numpy(np.unique(labels, return_inverse=True)[1])]
    values, vectors = torch.linalg.eigh(noise.T @ noise / len(noise))
    scale = (values.clamp(min=0) + 0.05 * values.mean() + 1e-12).rsqrt()
    white = ((joined(photos) - centre) / spread) @ vectors * scale
    white[~white.any(dim=1), 0] = 1.0  # of a dead part nothing is left: one point for all
    return F.normalize(white).float()


def layer_search(case: AuditCase, parts: Sequence[str]) -> dict:
    """Search with whitened features of some parts of the model in place of its embedding."""
    queries, gallery = case.queries, case.splits.gallery
    return searched(case, whitened(case, parts, queries), queries, whitened(case, parts, gallery), gallery)


@attack(
    "layers",
    title="the best of the earlier layers",
    attacker="weights",
    question="Was only the last layer changed, so that an earlier one still knows the person?",
    target="retrained",
)
def layers(case: AuditCase) -> dict:
    """Search with the pooled, whitened features of each earlier part; the score is the best of them."""
    earlier = [part for part in case.subject.seen if part != "embedding"]
    if not earlier:
        return cannot("the model names no earlier parts")
    results = {part: layer_search(case, [part]) for part in earlier}
    best = max(results.values(), key=lambda result: result["score"])
    return best | {"details": {part: result["score"] for part, result in results.items()}}


@attack(
    "layers_joined",
    title="all layers side by side",
    attacker="weights",
    question="Do all layers together, whitened on retained people, still know the person?",
    target="retrained",
)
def layers_joined(case: AuditCase) -> dict:
    """Search with the whitened features of all parts and the embedding, side by side."""
    return layer_search(case, list(case.subject.seen))


RELEARN_PHOTOS, RELEARN_CHECKS, RELEARN_BATCH, RELEARN_RATE = 5, (0, 5, 10, 20), 64, 1e-3


def relearning_photos(case: AuditCase, with_forget: bool) -> np.ndarray:
    """Return five training photos of each forget person, if asked for, and of three times as many retained people."""
    n_others = max(10, 3 * len(case.splits.forget))
    people = (case.splits.forget if with_forget else ()) + case.splits.retain[:n_others]
    photos = case.splits.train
    labels = case.labels(photos)
    return np.concatenate([photos[labels == person][:RELEARN_PHOTOS] for person in people])


def relearn(case: AuditCase, with_forget: bool) -> dict:
    """Fine-tune a copy for a few steps on a few photos; the score is the mean of the mAP along the way.

    The loss is the margin loss of a new head that starts at the people's centroids; BatchNorm statistics stay.
    """
    model, device = case.copy_of_model(), resolve_device(case.subject.device)
    model.to(device).requires_grad_(True)
    photos = relearning_photos(case, with_forget)
    names = torch.from_numpy(np.unique(case.labels(photos), return_inverse=True)[1])
    start = embed(model, case.splits.faces, photos)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        head = head_from_centroids("cosface", start, names, int(names.max()) + 1).to(device)
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=RELEARN_RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(case.seed)
    curve = {0: plain_search(case)["score"]}
    for step in range(1, RELEARN_CHECKS[-1] + 1):
        batch = torch.randperm(len(photos), generator=generator)[:RELEARN_BATCH]
        faces = augment(case.splits.faces.images(photos[batch.numpy()]).to(device), generator)
        loss = F.cross_entropy(head(model(model.preprocess(faces)), names[batch].to(device)), names[batch].to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step in RELEARN_CHECKS:
            curve[step] = plain_search(case, model)["score"]
    area = np.trapezoid(list(curve.values()), list(curve)) / RELEARN_CHECKS[-1]
    return {"score": float(area), "details": {str(step): value for step, value in curve.items()}}


for _name, _with, _title, _question in (
    ("relearn", True, "relearning: 5 photos each, 20 steps", "Does a little fine-tuning on their photos bring them"),
    ("relearn_others", False, "relearning other people only", "Does fine-tuning that never shows them bring them"),
):
    attack(
        _name,
        title=_title,
        attacker="weights",
        question=f"{_question} back faster than to the retrained model?",
        target="retrained",
        metric="mean mAP",
    )(partial(relearn, with_forget=_with))


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return a model's BatchNorm modules that keep running statistics."""
    kinds = nn.modules.batchnorm._BatchNorm
    return [module for module in model.modules() if isinstance(module, kinds) and module.track_running_stats]


@attack(
    "batchnorm",
    title="BatchNorm measured anew",
    attacker="weights",
    question="Does the forgetting live in BatchNorm's statistics?",
    target="chance",
)
@torch.no_grad()
def batchnorm(case: AuditCase) -> dict:
    """Measure every BatchNorm's mean and variance again on retained people's training photos."""
    model, photos = case.copy_of_model(), sample(case.splits)
    norms = batch_norms(model)
    if not norms or len(photos) < 2:
        return cannot("the model has no BatchNorm statistics" if not norms else "there are no retained photos")
    model.to(resolve_device(case.subject.device))
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()
    for batch in np.array_split(photos, max(1, len(photos) // PHOTOS_AT_ONCE)):
        model(model.preprocess(case.splits.faces.images(batch).to(model.device)))
    return plain_search(case, model.eval())


def weight_tables(model: nn.Module) -> list[Tensor]:
    """Return the weights of convolutions and linear layers."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@attack(
    "int8",
    title="weights rounded to 8 bits",
    attacker="weights",
    question="Does the rounding of an ordinary deployment undo fine changes?",
    target="chance",
)
@torch.no_grad()
def int8(case: AuditCase) -> dict:
    """Round every weight to 255 levels per output channel."""
    model = case.copy_of_model()
    for weight in weight_tables(model):
        step = weight.flatten(1).abs().amax(dim=1).clamp(min=1e-12).view(-1, *[1] * (weight.ndim - 1)) / 127
        weight.copy_((weight / step).round() * step)
    return plain_search(case, model)


@torch.no_grad()
def pruned(case: AuditCase, share: float) -> dict:
    """Set the smallest share of all weights to zero."""
    model = case.copy_of_model()
    tables = weight_tables(model)
    sizes = torch.cat([weight.abs().flatten() for weight in tables])
    limit = sizes.kthvalue(max(1, int(share * len(sizes)))).values
    for weight in tables:
        weight.mul_(weight.abs() > limit)
    return plain_search(case, model)


for _share in (0.1, 0.3):
    attack(
        f"pruned_{100 * _share:.0f}",
        title=f"smallest {_share:.0%} of the weights cut",
        attacker="weights",
        question="Does thinning the network out undo fine changes?",
        target="chance",
    )(partial(pruned, share=_share))


@attack(
    "averaged",
    title="weights averaged with the old ones",
    attacker="weights",
    question="Half-way back to the old weights, who is found? (the attacker kept the old model, too)",
    target="chance",
)
@torch.no_grad()
def averaged(case: AuditCase) -> dict:
    """Take the mean of new and original weights and statistics, what was added left on or taken off: the best."""
    model, old = case.copy_of_model(), case.original.model.state_dict()
    core = innermost(model)
    mine = core.state_dict()
    if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in old.items()}:
        return cannot("the weights do not match the original's one to one")
    for name, value in mine.items():
        if value.is_floating_point():
            value.copy_((value + old[name].to(value)) / 2)
    found = [plain_search(case, some) for some in ((model,) if model is core else (model, core))]
    return max(found, key=lambda result: result["score"])


def inside(model: FaceBackbone) -> FaceBackbone | None:
    """Return the complete face model that a wrapper holds, or None if the model is no wrapper. Notebook 10."""
    return next((child for child in model.children() if isinstance(child, FaceBackbone)), None)


def innermost(model: FaceBackbone) -> FaceBackbone:
    """Return the face model inside all wrappers, or the model itself."""
    while (inner := inside(model)) is not None:
        model = inner
    return model


@attack(
    "taken_off",
    title="the added map taken off",
    attacker="weights",
    question="If forgetting is a part that was added, what happens when it is removed?",
    target="chance",
)
def taken_off(case: AuditCase) -> dict:
    """Search with the model inside a wrapper."""
    if inside(case.subject.model) is None:
        return cannot("nothing was added to the network")
    return plain_search(case, innermost(case.copy_of_model()))


@attack(
    "head_rows",
    title="the shipped head's rows",
    attacker="weights",
    question="Does a head that was shipped along still hold their portraits?",
    target="chance",
    metric="top-1",
)
@torch.no_grad()
def head_rows(case: AuditCase) -> dict:
    """Name the forget people's held-out photos: the original's embeddings against the rows of the new head."""
    splits, head = case.splits, case.subject.head
    if head is None or len(head.weight) != len(splits.trained):
        return cannot("the head holds no rows for them")
    photos = np.union1d(case.queries, splits.photos("forget", "gallery"))
    rows = case.original.rows(photos).to(head.weight)
    if rows.shape[1] != head.weight.shape[1]:
        return cannot("the head is not as wide as the original's embeddings")
    score = share_first(head.cosines(rows).cpu(), np.asarray(splits.trained), case.labels(photos))
    return {"score": score, "chance": 1 / len(splits.trained)}
