"""Is the face really forgotten? Attacks that try to bring forgotten people back: `python -m utils.audit --help`.

Every attack is a function of an `AuditCase` and returns at least a `score` between 0 and 1; what it assumes of the
attacker, and with whom it is fair to compare, stands beside it in `ATTACKS`. Definitions:

* **score**: mAP of the forget people's held-out queries, unless the attack's `metric` says otherwise;
* **target**: what the score would be if they were forgotten as stated (`TARGETS`);
* **original**: the score of the same attack on the model before unlearning;
* **recovered**: (score - target) / (original - target), cut to 0..1. It is 0 at or below the target, and unknown
  where the original itself stands less than `NO_GAP` above it. Where the target is 0.5 it is 2 |score - 0.5|. A price,
  whose target is the original's score, recovers nothing: it is unknown.
* **worst**: the person for whom the attack does best, with that score and what it recovers of the same way; of a price,
  the person who pays most. An attack that does not apply has no score, and a note that says why.

Chance is the mAP expected of a random order. A model that gives every photo the same embedding scores a little less:
tied photos count as one group, whose average precision is the share of right ones in the gallery. It recovers 0. So
does every attack that only reads embeddings where each query lies at one point with somebody else's photo: whatever is
ranked first there, and however luckily, no name is told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import numpy as np
import torch

from ..faces.splits import Splits
from ..models.backbones import FaceBackbone
from ..models.heads import CosineHead
from ..retrieval.evaluation import held_out_photos
from ..retrieval.similarity import SAME_POINT, cosine_matrix, unit_rows
from ..settings import CourseError, as_seed, one_of, progress_bar
from .case import ATTACKS, NO_GAP, Attack, AuditCase, Subject, cannot

READERS = ("photos", "names", "old gallery")  # whose attacks read embeddings and nothing else
LENGTH_READERS = ("one_photo", "other_similarity")  # but these see how long they are, too


def recovered(score: float, target: float, original: float, kind: str) -> float:
    """Return which share of the way from the stated target back to the original an attack went, 0..1. Notebook 10.

    0 at or below the target; NaN if a number is missing, or if the original is less than NO_GAP above the target.
    """
    if kind == "original" or any(map(math.isnan, (score, target))):
        return math.nan
    if kind == "half":
        return min(1.0, 2 * abs(score - 0.5))
    if score <= target + 1e-9:  # rounding is no recovery
        return 0.0
    gap = original - target
    return math.nan if not gap >= NO_GAP else min(1.0, (score - target) / gap)


def names_nobody(subject: Subject, kind: str) -> bool:
    """Say whether each forget query (and, told by pairs, each unseen one) lies at one point with another's photo."""
    asked = np.concatenate([subject.splits.photos(p, "query") for p in ("forget", "unseen")[: 1 + (kind == "half")]])
    others, labels = held_out_photos(subject.splits), np.asarray(subject.splits.faces.labels)
    together = cosine_matrix(subject.rows(asked), subject.rows(others)) >= SAME_POINT
    return bool((together & torch.from_numpy(labels[asked][:, None] != labels[others])).any(dim=1).all())


def remembered(case: AuditCase, entry: Attack, who: str) -> dict:
    """Return what an attack does to the original or the retrained model: computed once per case."""
    subject = getattr(case, who)
    if subject is None:
        return cannot("there is no retrained model to compare with")
    if (entry.name, who) not in case.memory:
        case.memory[entry.name, who] = entry.run(case.on(subject))
    return case.memory[entry.name, who]


def audit_row(case: AuditCase, entry: Attack) -> dict:
    """Run one attack and return its row: score, stated target, original, what was recovered, and notes."""
    began = time.perf_counter()
    role = next((who for who in ("original", "retrained") if getattr(case, who) is case.subject), None)
    result = remembered(case, entry, role) if role else entry.run(case)
    seconds = time.perf_counter() - began
    old, notes = remembered(case, entry, "original")["score"], [result.get("note", "")]
    if math.isnan(old):  # nothing to undo in the original: there, the attack is a plain search
        old = remembered(case, ATTACKS["search"], "original")["score"]
    target = {"chance": result.get("chance", math.nan), "unseen": result.get("unseen", math.nan), "half": 0.5}
    target |= {"zero": 0.0, "original": old}
    if entry.target in ("retrained", "strangers"):
        reference = remembered(case, entry, "retrained")
        target |= {"retrained": reference["score"], "strangers": reference.get("unseen", math.nan)}
        notes.append(reference.get("note", ""))
    score, goal = result["score"], target[entry.target]
    reads = entry.attacker in READERS and entry.name not in LENGTH_READERS

    def share_of(some: float) -> float:
        share = recovered(some, goal, old, entry.target)
        return 0.0 if share > 0 and reads and names_nobody(case.subject, entry.target) else share

    pick, people = min if entry.target == "original" else max, result.get("people", {})
    worst = pick(people.items(), key=lambda item: item[1], default=None)
    if worst:
        name = case.splits.faces.identities[worst[0]]
        worst = {"person": name, "score": worst[1], "recovered": share_of(worst[1])}
    return {
        "attack": entry.name,
        "title": entry.title,
        "attacker": entry.attacker,
        "metric": entry.metric,
        "stated_target": entry.target,
        "score": score,
        "target": goal,
        "original": old,
        "recovered": share_of(score),
        "worst": worst,
        "note": "; ".join(dict.fromkeys(filter(None, notes))),
        "details": result.get("details", {}),
        "seconds": round(seconds, 2),
    }


def audit(case: AuditCase, attacks: Iterable[str] | None = None, progress: bool = False) -> list[dict]:
    """Run attacks (all by default) on the model of a case and return one row per attack; no model is changed.

    Raises CourseError for an unknown attack, or splits without forget people's held-out photos. Notebook 10.
    """
    names = list(ATTACKS) if attacks is None else [one_of(name, ATTACKS, "attack") for name in attacks]
    if not len(case.queries) or not len(case.splits.photos("forget", "gallery")):
        raise CourseError("An audit needs held-out query and gallery photos of the forget people; there are none.")
    unit_rows(case.subject.seen["embedding"])  # a diverged model is refused in one sentence, before the attacks
    return [audit_row(case, ATTACKS[name]) for name in progress_bar(names, desc="attacks", enabled=progress)]


def make_case(
    splits: Splits,
    original: tuple[FaceBackbone, CosineHead],
    retrained: tuple[FaceBackbone, CosineHead] | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "auto",
) -> AuditCase:
    """Return a case with the original model under audit; `case.on(Subject(...))` puts another in its place.

    Introduced in notebook 10.
    """
    first = Subject(*original, splits, device)
    second = None if retrained is None else Subject(*retrained, splits, device)
    return AuditCase(first, first, second, splits, as_seed(seed))
