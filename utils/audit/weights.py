"""Attackers who hold the model itself."""

from __future__ import annotations

import copy
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
from ..models.interface import maps_of
from ..settings import resolve_device
from ..unlearning.rates import PROBED, USUAL, degrees_per_rate, evenly
from .case import PHOTOS_AT_ONCE, AuditCase, Subject, attack, best_of, cannot, mean_by, plain_search, sample, searched
from .gallery import orthogonal_map
from .names import named_first


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
    earlier = [part for part in case.subject.seen if part not in ("embedding", "length")]
    if not earlier:
        return cannot("the model names no earlier parts")
    results = {part: layer_search(case, [part]) for part in earlier}
    return best_of(results)


@attack(
    "layers_joined",
    title="all layers side by side",
    attacker="weights",
    question="Do all layers together, whitened on retained people, still know the person?",
    target="retrained",
)
def layers_joined(case: AuditCase) -> dict:
    """Search with the whitened features of all parts and the embedding, side by side."""
    return layer_search(case, [part for part in case.subject.seen if part != "length"])


RELEARN_PHOTOS, RELEARN_CHECKS, RELEARN_BATCH, RELEARN_RATE = 5, (0, 5, 10, 20), 64, 1e-3


def relearning_photos(case: AuditCase, with_forget: bool) -> np.ndarray:
    """Return five training photos of each forget person, if asked for, and of three times as many retained people."""
    n_others = max(10, 3 * len(case.splits.forget))
    people = (case.splits.forget if with_forget else ()) + case.splits.retain[:n_others]
    photos = case.splits.train
    labels = case.labels(photos)
    return np.concatenate([photos[labels == person][:RELEARN_PHOTOS] for person in people])


def relearning_rate(case: AuditCase) -> float:
    """Return the learning rate of relearning: less for a network whose points move easily, one rate for all methods."""
    if "relearning rate" not in case.memory:
        model, device = copy.deepcopy(case.original.model).eval(), resolve_device(case.subject.device)
        weights = list(model.to(device).requires_grad_(True).parameters())
        shown = case.splits.faces.images(evenly(case.splits.train, PROBED)).to(device)
        degrees = degrees_per_rate(model, weights, shown)
        case.memory["relearning rate"] = RELEARN_RATE * min(1.0, USUAL / max(degrees, 1.0))
    return case.memory["relearning rate"]


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
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=relearning_rate(case), weight_decay=0.0)
    generator = torch.Generator().manual_seed(case.seed)
    curve = {0: plain_search(case)}
    for step in range(1, RELEARN_CHECKS[-1] + 1):
        batch = torch.randperm(len(photos), generator=generator)[:RELEARN_BATCH]
        faces = augment(case.splits.faces.images(photos[batch.numpy()]).to(device), generator)
        loss = F.cross_entropy(head(model(model.preprocess(faces)), names[batch].to(device)), names[batch].to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step in RELEARN_CHECKS:
            curve[step] = plain_search(case, model)

    def area(heights: list[float]) -> float:
        return float(np.trapezoid(heights, list(curve)) / RELEARN_CHECKS[-1])

    people = {person: area([found["people"][person] for found in curve.values()]) for person in curve[0]["people"]}
    details = {str(step): found["score"] for step, found in curve.items()}
    return {"score": area(list(details.values())), "details": details, "people": people}


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
        return cannot("the model shows no BatchNorm statistics" if not norms else "there are no retained photos")
    model.to(resolve_device(case.subject.device))
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()
    for batch in np.array_split(photos, max(1, len(photos) // PHOTOS_AT_ONCE)):
        model(model.preprocess(case.splits.faces.images(batch).to(model.device)))
    return plain_search(case, model.eval())


def weight_tables(model: nn.Module) -> list[Tensor]:
    """Return the weights of convolutions and linear layers; raises Lacking where none can be seen."""
    return [module.weight for module in maps_of(model)]


@torch.no_grad()
def rounded(case: AuditCase, levels: int) -> dict:
    """Round every weight to so many levels above 0 and as many below, per output channel."""
    model = case.copy_of_model()
    for weight in weight_tables(model):
        step = weight.flatten(1).abs().amax(dim=1).clamp(min=1e-12).view(-1, *[1] * (weight.ndim - 1)) / levels
        weight.copy_((weight / step).round() * step)
    return plain_search(case, model)


for _bits, _target, _question in (
    (8, "chance", "Does the rounding of an ordinary deployment undo fine changes?"),
    (4, "retrained", "Does coarse rounding undo fine changes, where 8 bits are harmless (DurableUn, 2605.02196)?"),
):
    attack(
        f"int{_bits}",
        title=f"weights rounded to {_bits} bits",
        attacker="weights",
        question=_question,
        target=_target,
    )(partial(rounded, levels=2 ** (_bits - 1) - 1))


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
    attacker="old model",
    question="Half-way back to the old weights, who is found?",
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


# ---------------------------------------------------------------------------------------------- students and queries

DISTIL_STEPS, DISTIL_BATCH, DISTIL_RATE = 150, 64, 2e-3


def fresh(model: FaceBackbone, seed: int) -> FaceBackbone:
    """Return a network of the same shape with weights drawn anew; parts that rest stay, what was added is left off.

    Raises Lacking where no layers can be seen.
    """
    student = copy.deepcopy(innermost(model))
    maps_of(student)
    resting = {id(weight) for weight in student.at_rest()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in student.modules():
            mine = {id(weight) for weight in module.parameters(recurse=False)}
            if hasattr(module, "reset_parameters") and not mine & resting:
                module.reset_parameters()
    return student.let_move()


@attack(
    "distil_back",
    title="a fresh student of the shipped model",
    attacker="weights",
    question="Does a smooth student, taught the shipped model's embeddings, average what was scattered back together?",
    target="retrained",
)
def distil_back(case: AuditCase) -> dict:
    """Fit a fresh network to the model's embeddings of all training photos, and search with it (after 2506.19486)."""
    splits, device = case.splits, resolve_device(case.subject.device)
    photos = splits.train[np.argsort(case.labels(splits.train), kind="stable")]
    wanted = embed(case.subject.model, splits.faces, photos, device=device).to(device)
    student, generator = (
        fresh(case.subject.model, case.seed).to(device).train(),
        torch.Generator().manual_seed(case.seed),
    )
    optimiser = torch.optim.Adam([weight for weight in student.parameters() if weight.requires_grad], lr=DISTIL_RATE)
    for step in range(DISTIL_STEPS):
        optimiser.param_groups[0]["lr"] = DISTIL_RATE * (1 - step / DISTIL_STEPS)
        batch = torch.randperm(len(photos), generator=generator)[:DISTIL_BATCH]
        points = F.normalize(student(student.preprocess(splits.faces.images(photos[batch.numpy()]).to(device))))
        optimiser.zero_grad(set_to_none=True)
        (1 - (points * wanted[batch.to(device)]).sum(dim=1)).mean().backward()
        optimiser.step()
    return plain_search(case, student.eval())


PGD_STEPS, GREY_LEVELS = 10, 8


def pushed(model: FaceBackbone, faces: Tensor, goals: Tensor) -> Tensor:
    """Return the embeddings of faces (B, 3, S, S) pushed towards goals (B, d): projected gradient ascent on the cosine.

    No pixel of the network's input moves by more than 8 grey levels (Madry et al. 2018).
    """
    start, reach = model.preprocess(faces.to(model.device)), GREY_LEVELS / model.card.scale
    low, high = (bound.expand_as(start) for bound in model.bounds())
    low, high = torch.maximum(start - reach, low), torch.minimum(start + reach, high)
    moved = start
    for _ in range(PGD_STEPS):
        moved = moved.detach().requires_grad_(True)
        (uphill,) = torch.autograd.grad((F.normalize(model(moved)) * goals).sum(), moved)
        moved = torch.clamp(moved.detach() + reach / 4 * uphill.sign(), low, high)
    with torch.no_grad():
        return F.normalize(model(moved)).float()


@attack(
    "adversarial_query",
    title="a query pushed towards the person",
    attacker="weights",
    question="Does a change too small to see bring a photo back to its person sooner than to a random stranger?",
    target="zero",
    metric="gain",
)
def adversarial_query(case: AuditCase) -> dict:
    """Push queries towards a training photo of their person, and of a random retained one: the gain in cosine.

    After the unlearning mapping attack (2504.14798).
    """
    splits, generator = case.splits, torch.Generator().manual_seed(case.seed)
    model, queries = case.copy_of_model().to(resolve_device(case.subject.device)), case.queries
    first = {int(p): i for i, p in reversed(list(zip(splits.train.tolist(), case.labels(splits.train), strict=True)))}
    if not splits.retain:
        return cannot("there is no retained stranger to aim at")
    drawn = torch.randint(len(splits.retain), (len(splits.forget),), generator=generator).tolist()
    stranger_of = {person: splits.retain[k] for person, k in zip(splits.forget, drawn, strict=True)}
    people = case.labels(queries).tolist()
    aims = {"own": people, "stranger": [stranger_of[person] for person in people]}
    reached = {}
    for name, aimed in aims.items():
        goals = embed(model, splits.faces, np.array([first[person] for person in aimed])).to(model.device)
        parts = zip(torch.split(torch.from_numpy(queries), DISTIL_BATCH), torch.split(goals, DISTIL_BATCH), strict=True)
        found = [(pushed(model, splits.faces.images(i), goal) * goal).sum(dim=1) for i, goal in parts]
        reached[name] = torch.cat(found).cpu().double().numpy()
    gain = reached["own"] - reached["stranger"]
    details = {name: float(values.mean()) for name, values in reached.items()}
    return {"score": float(gain.mean()), "details": details, "people": mean_by(np.array(people), gain)}


# ------------------------------------------------------------------------------------------------------- the old head


@attack(
    "head_rows",
    title="the old head's rows",
    attacker="old head",
    question="Do the old head's portraits of the forgotten still name them, straight or after a map?",
    target="chance",
    metric="top-1",
)
@torch.no_grad()
def head_rows(case: AuditCase) -> dict:
    """Name the forget people's held-out photos by the rows of the old head, as they are or turned; the better counts.

    The turn is fitted on retained people's training photos and their rows. What is shipped holds no such rows.
    """
    splits, head = case.splits, case.original.head
    if head is None or len(head.weight) != len(splits.trained):
        return cannot("the old head holds no rows for them")
    rows, known = F.normalize(head.weight.detach().cpu().double()), sample(splits)
    photos = np.union1d(case.queries, splits.photos("forget", "gallery"))
    points, seen = (case.subject.rows(i).double() for i in (photos, known))
    if points.shape[1] != rows.shape[1]:
        return cannot("the old head is not as wide as the model's embeddings")
    turn = orthogonal_map(seen, rows[splits.class_of(case.labels(known))])
    ways = {"straight": points, "turned": points @ turn}
    found = {
        name: named_first(asked @ rows.T, np.asarray(splits.trained), case.labels(photos))
        for name, asked in ways.items()
    }
    best = max(found.values(), key=lambda result: result["score"])
    return best | {"chance": 1 / len(splits.trained), "details": {name: one["score"] for name, one in found.items()}}
