"""What the stored audits say, a line per method: `python -m utils.verdicts`; `python -m utils.audit` makes them."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from ..audit.case import ATTACKS
from ..settings import command
from ..unlearning.registry import METHODS, by_kind
from .plan import STORED, plan_parser
from .results import ResultStore
from .tables import grouped, percent, remark, table_with_people, with_remarks

AUDIT_FILE = STORED / "audit.json"
REAL_AUDITS = STORED / "audit_lfw.json"  # LFW's people and dlib's recogniser
SAME = ("method", "seed", "forget_ids", "config", "train")  # what a score and an audit of one model agree on
audit_store = functools.partial(ResultStore, name="audit")
SHIPPED = ("photos", "names", "old gallery", "weights")  # attackers without a piece of the old model
HOLDERS = (*SHIPPED, "old head", "old model")
FOUND = ("mAP", "mean mAP", "top-1")  # metrics of being found or named again; the others tell something else
RAW = {
    "names": ("top-1", ("unseen",)),
    "weights": ("mAP", ("retrained",)),
}  # holder -> whose scores stand beside shares


def read_audits(path: Path = AUDIT_FILE) -> list[dict]:
    """Read the runs of an audit file; raises CourseError if it is absent, damaged or another command's. Notebook 10.

    Rows of attacks that have another holder, metric or target today were not measured, and are left out.
    """
    runs = audit_store(path).read()["runs"]
    return [run | {"audit": list(filter(as_today, run["audit"]))} if "audit" in run else run for run in runs]


def as_today(row: dict) -> bool:
    """Say whether a stored row is of an attack as it is defined today."""
    entry = ATTACKS.get(row.get("attack"))
    fields = (row.get(name) for name in ("attacker", "metric", "stated_target"))
    return entry is not None and tuple(fields) == (entry.attacker, entry.metric, entry.target)


def same_model(run: dict) -> str:
    """Return what tells the unlearned model of a run from all others."""
    return json.dumps([run.get(name) for name in SAME], sort_keys=True)


def stored_audit(row: dict, runs: Iterable[dict]) -> list[dict]:
    """Return what stored audits say of the model behind a results row, unknown numbers as NaN; [] if nothing."""
    found = [run["audit"] for run in runs if "audit" in run and same_model(run) == same_model(row)]
    numbers = ("score", "target", "original", "recovered")
    return [one | {key: math.nan for key in numbers if one[key] is None} for one in (found[0] if found else ())]


def verdict(rows: Sequence[dict]) -> dict:
    """Return the most that came back per attacker, on the mean and for the worst person, raw scores, and what won.

    Only being found or named again counts; the winner holds no piece of the old model. 'raw' has the highest score
    where the target is not chance. Attacks that were not measured are None. Notebook 10.
    """
    known = [row for row in rows if row["recovered"] is not None and row["metric"] in FOUND]

    def most(values: Iterable[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    found = {holder: most(row["recovered"] for row in known if row["attacker"] == holder) for holder in HOLDERS}
    worst = {
        holder: most((row.get("worst") or {}).get("recovered") for row in known if row["attacker"] == holder)
        for holder in HOLDERS
    }
    raw = {
        holder: most(
            row["score"]
            for row in rows
            if (row["attacker"], row["metric"]) == (holder, metric) and row.get("stated_target") in targets
        )
        for holder, (metric, targets) in RAW.items()
    }
    open_to = [row for row in known if row["attacker"] in SHIPPED]
    winner = max(open_to, key=lambda row: row["recovered"], default=None)
    won = winner["title"] if winner and winner["recovered"] > 0 else "none"
    return found | {"worst": worst, "raw": raw, "winner": won}


def came_back(runs: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Return the most that came back to each attacker, {method's title: {attacker: share}}, mean over seeds.

    NaN where nothing was measured; of drawn faces and real ones alike. Introduced in notebook 10.
    """
    table = {}
    for group, note in grouped(sorted(runs, key=lambda run: (by_kind(run["method"]), run["seed"]))):
        found, name = [verdict(run["audit"]) for run in group if "audit" in run], group[0]["method"]
        known = {holder: [one[holder] for one in found if one[holder] is not None] for holder in HOLDERS}
        said = remark(group, note)  # which seeds diverged, too
        title = (METHODS[name].title if name in METHODS else name) + (f" ({said})" if said else "")
        table[title] = {holder: fmean(shares) if shares else math.nan for holder, shares in known.items()}
    return table


TRACES = {  # attack -> its column: what else an attacker learns, and what others pay
    "pairs": "pairs (0.5)",
    "one_photo": "one photo (0.5)",
    "trait_leakage": "looks matched (goal)",
    "adversarial_query": "gain of a pushed query (0)",
    "collateral": "neighbours' mAP (before)",
}


def trace(found: Sequence[dict], name: str) -> str:
    """Return the mean score of an attack over some audits, with the mean of its target where that is measured, too."""
    rows = [row for rows in found for row in rows if row["attack"] == name and row["score"] is not None]
    if not rows:
        return "–"
    if rows[0].get("stated_target") not in ("strangers", "original"):
        return f"{fmean(row['score'] for row in rows):.2f}"
    return f"{percent([row['score'] for row in rows])} ({percent([row['target'] for row in rows])})"


def holder_cell(found: Sequence[dict], holder: str) -> str:
    """Return what came back to one attacker, the mean over audits, and in brackets the worst person's."""
    worst = [one["worst"][holder] for one in found if one["worst"][holder] is not None]
    return percent([one[holder] for one in found]) + (f" ({100 * fmean(worst):.0f})" if worst else "")


def audit_summary(runs: Sequence[dict], markdown: bool = False, traces: bool = False) -> str:
    """Return a line per audited method and setting: the most that came back (percent, mean over seeds, in brackets for
    the worst person) by what the attacker holds and raw scores, or else the other `traces`. Notebook 10."""
    header = [f"{holder} ↓" for holder in HOLDERS] + [f"{holder}, raw {metric}" for holder, (metric, _) in RAW.items()]
    header = ["method", *(TRACES.values() if traces else header)]
    with_winner = markdown and not traces
    rows, remarks = [[*header, "what won"] if with_winner else header], []
    for group, note in grouped(sorted(runs, key=lambda run: (by_kind(run["method"]), run["seed"]))):
        audits, name = [run["audit"] for run in group if "audit" in run], group[0]["method"]
        found = [verdict(audit) for audit in audits]
        cells = [METHODS[name].title if name in METHODS else name]
        if traces:
            cells += [trace(audits, attack) for attack in TRACES]
        else:
            cells += [holder_cell(found, holder) for holder in HOLDERS]
            cells += [percent([one["raw"][holder] for one in found]) for holder in RAW]
        rows.append([*cells, " / ".join(dict.fromkeys(one["winner"] for one in found))] if with_winner else cells)
        remarks.append(remark(group, note))
    return table_with_people(with_remarks(rows, remarks), () if traces else runs, markdown)


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    args = plan_parser("verdicts", __doc__, ("out", "markdown"), out=AUDIT_FILE).parse_args(arguments)
    runs = read_audits(args.out)
    print(audit_summary(runs, args.markdown), audit_summary(runs, args.markdown, traces=True), sep="\n\n")
    return 0
