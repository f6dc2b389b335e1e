"""Two recognisers on the same real faces: how alike one person's photos look to each, and how alike strangers do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..faces.splits import Splits
from ..faces.synthetic.dataset import synthetic_faces
from ..models.dlib_weights import dlib_at_hand
from ..models.embedding import embed
from ..models.finetuning import STARTS, starting_model
from ..retrieval.scores import retrieval_scores
from ..settings import CourseError, atomic_path, command, seed_everything
from ..unlearning.rates import PROBED, degrees_per_rate
from .plan import STORED, Plan, prepared

RECOGNISERS = STORED / "recognisers.json"
BINS = np.linspace(-0.5, 1.0, 61)  # of cosines; what lies outside counts in the first or the last
TITLES = {"mini": "the small model, trained on drawn faces", "dlib": "dlib's, trained on three million photos"}


def cosine_shares(points: Tensor, labels: np.ndarray) -> dict:
    """Return, for unit rows (N, d), which share of pairs falls into each of BINS: 'same' person and 'other' people;
    'r1' is the share of photos whose nearest other photo shows the same person."""
    first, second = np.triu_indices(len(labels), k=1)
    cosines, alike = (points @ points.T).numpy()[first, second], labels[first] == labels[second]
    shares = {}
    for name, chosen in (("same", cosines[alike]), ("other", cosines[~alike])):
        counts = np.histogram(chosen.clip(BINS[0], BINS[-1]), BINS)[0]
        shares[name] = [round(float(share), 6) for share in counts / max(1, counts.sum())]
        shares[f"{name}_pairs"], shares[f"{name}_mean"] = int(counts.sum()), round(float(chosen.mean()), 4)
    ids = np.arange(len(labels))
    found = retrieval_scores(points, labels, points, labels, query_ids=ids, gallery_ids=ids)
    return shares | {"r1": round(found.r1, 4)}


def measured(splits: Splits, models: dict) -> dict:
    """Return what each model makes of the held-out photos of people whom neither was trained on here."""
    photos = np.union1d(splits.photos("unseen", "query"), splits.photos("unseen", "gallery"))
    labels = splits.faces.labels[photos]
    sides = {
        name: {"title": TITLES[name]} | cosine_shares(embed(model, splits.faces, photos), labels)
        for name, model in models.items()
    }
    about = {"dataset": splits.faces.name, "photos": len(photos), "people": len(np.unique(labels))}
    return about | {"bins": BINS.round(3).tolist(), "models": sides}


def two_recognisers(dataset: str = "synthetic", root: str = "", max_identities: int = 0, device: str = "auto") -> dict:
    """Return both recognisers' view of real faces: measured now where photos and dlib's weights are there, else as the
    course stored it. Introduced in notebook 02."""
    if dataset == "synthetic" or not dlib_at_hand():
        return json.loads(RECOGNISERS.read_text(encoding="utf-8"))
    plan = Plan(dataset=dataset, root=root, backbone="dlib", max_identities=max_identities, device=device)
    splits, recogniser = prepared(plan, 0, {}, True)
    return measured(splits, {"mini": starting_model("mini", "embedded"), "dlib": recogniser.model})


def degrees(backbone: str, start: str) -> float:
    """Return by how many degrees per unit of learning rate a model moves drawn faces if all that may move does."""
    seed_everything(0)
    model = starting_model(backbone, start).eval().let_move()
    faces = synthetic_faces(PROBED, 0, 1, 1, image_size=model.card.crop_size, progress=False, cached=False)[0]
    return degrees_per_rate(model, [weight for weight in model.parameters() if weight.requires_grad], faces)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both recognisers on a data set of real faces and store shares of pairs, no photo; or, of any backbone,
    how easily its points move. Returns 0, or 2."""
    parser = argparse.ArgumentParser(prog="python -m utils.recognisers", description=main.__doc__)
    parser.add_argument("--dataset", default="lfw", metavar="NAME", help="real faces: lfw, celeba, vggface2, folder")
    parser.add_argument("--root", default="", metavar="DIR", help="where the photos are")
    parser.add_argument("--out", type=Path, default=RECOGNISERS, metavar="FILE", help="where the numbers go")
    parser.add_argument("--degrees", metavar="BACKBONE", help="print the degrees that points move per learning rate")
    parser.add_argument("--start", default="none", metavar="NAME", help=f"its weights, one of: {', '.join(STARTS)}")
    args = parser.parse_args(arguments)
    if args.degrees:
        found = degrees(args.degrees, args.start)
        print(f"{args.degrees}, {args.start}: {found:,.0f} degrees per unit of learning rate")
        return 0
    if args.dataset == "synthetic":
        raise CourseError("The two recognisers are compared on real faces: choose --dataset lfw and its --root.")
    if not dlib_at_hand():
        raise CourseError("dlib's weights are not here yet: any command with --backbone dlib fetches them.")
    sides = two_recognisers(args.dataset, args.root)
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps(sides, indent=1) + "\n", encoding="utf-8")
    for name, side in sides["models"].items():
        told = f"one person {side['same_mean']:+.2f}, strangers {side['other_mean']:+.2f}, R@1 {side['r1']:.1%}"
        print(f"{name:5} {told} ({sides['photos']:,} photos of {sides['people']} people)")
    return 0
