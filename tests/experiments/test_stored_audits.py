"""The committed audits: two made again in seconds, and every row true to its own definitions."""

from __future__ import annotations

import math

import pytest

from utils.audit.case import ATTACKS
from utils.audit.summary import READERS, audit, make_case, recovered
from utils.experiments.audit_summary import read_audits
from utils.models.checkpoints import EMBEDDED, load_recogniser
from utils.settings import MODEL_DIR

# those that neither train nor measure a network anew: their numbers are the same on every machine but for rounding
QUICK = [name for name in ATTACKS if name not in ("disturbed", "relearn", "relearn_others", "batchnorm")]
QUICK = [name for name in QUICK if not name.startswith(("int", "pruned", "averaged", "distil_back", "adversarial"))]
NUMBERS = ("score", "target", "original", "recovered")


@pytest.fixture(scope="module")
def stored() -> dict[str, dict[str, dict]]:
    return {run["method"]: {row["attack"]: row for row in run["audit"]} for run in read_audits() if run["seed"] == 0}


def nan(value: float | None) -> float:
    return math.nan if value is None else value


def test_the_rows_of_original_and_retrained_model_are_made_again(default_splits, stored):
    loaded = (load_recogniser(MODEL_DIR / EMBEDDED[name])[0] for name in ("original", "retrain"))
    original, retrained = ((one.model, one.head) for one in loaded)
    case = make_case(default_splits, original, retrained, seed=0, device="cpu")
    for name, subject in (("original", case.original), ("retrain", case.retrained)):
        for row in audit(case.on(subject), [one for one in QUICK if one in stored[name]]):
            wanted = stored[name][row["attack"]]
            mine, old = ([nan(one[key]) for key in NUMBERS] for one in (row, wanted))
            assert mine == pytest.approx(old, abs=0.01, nan_ok=True), (name, row["attack"])
            assert row["details"] == pytest.approx(wanted["details"], abs=0.01)


def test_every_stored_row_keeps_to_its_definitions(stored):
    for method, rows in stored.items():
        for name, row in rows.items():
            entry, (score, target, original, share) = ATTACKS[name], (nan(row[key]) for key in NUMBERS)
            about = row["title"], row["attacker"], row["metric"], row["stated_target"]
            assert about == (entry.title, entry.attacker, entry.metric, entry.target), (method, name)
            first, again = stored["original"][name]["original"], stored["retrain"][name]["score"]
            assert original == pytest.approx(nan(first), abs=0.01, nan_ok=True), (method, name)
            if entry.target == "retrained":
                assert target == pytest.approx(again, abs=0.01), (method, name)
            elif entry.target == "half":
                assert target == 0.5
            elif entry.target in ("zero", "original"):
                assert target == (0 if entry.target == "zero" else original)
            elif entry.target == "unseen":
                assert (score, target) == (row["details"]["forget"], row["details"]["unseen"])
            wanted = recovered(score, target, original, entry.target)
            zeroed = share == 0.0 and entry.attacker in READERS  # where a model puts different people at one point
            assert zeroed or share == pytest.approx(wanted, abs=1e-9, nan_ok=True), (method, name)
            if name in ("disturbed", "layers", "other_similarity"):
                assert score == max(row["details"].values())
            if row.get("worst"):
                least, most = sorted((score, row["worst"]["score"]))
                assert least == (row["worst"]["score"] if entry.target == "original" else score) and most <= 1
