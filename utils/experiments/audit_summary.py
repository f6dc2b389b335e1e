"""What the stored audits say, a line per method: `python -m utils.verdicts`; `python -m utils.audit` makes them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from ..settings import command
from ..unlearning.registry import METHODS
from .plan import STORED, plan_parser
from .results import ResultStore
from .tables import grouped, percent, remark, table_with_people, with_remarks

AUDIT_FILE = STORED / "audit.json"
audit_store = functools.partial(ResultStore, name="audit")
HOLDERS = ("photos", "names", "old gallery", "weights")


def read_audits(path: Path = AUDIT_FILE) -> list[dict]:
    """Read the runs of an audit file; raises CourseError if it is absent, damaged or another command's. Notebook 10."""
    return audit_store(path).read()["runs"]


def verdict(rows: Sequence[dict]) -> dict:
    """Return the most that came back per kind of attacker, the AUC of the pairs, and the attack that won most.

    The membership attack stands for itself: its ideal is 0.5, and no target of a search. Notebook 10.
    """
    known = [row for row in rows if row["recovered"] is not None and row["metric"] != "AUC"]
    worst = {holder: [row["recovered"] for row in known if row["attacker"] == holder] for holder in HOLDERS}
    winner = max(known, key=lambda row: row["recovered"], default=None)
    return {
        **{holder: max(shares, default=None) for holder, shares in worst.items()},
        "pairs": next((row["score"] for row in rows if row["attack"] == "pairs"), None),
        "winner": winner["title"] if winner and winner["recovered"] > 0 else "none",
    }


def audit_summary(runs: Sequence[dict], markdown: bool = False) -> str:
    """Return a line per audited method and setting: the most that came back (percent, mean over seeds) by what the
    attacker holds. Notebook 10."""
    header = ["method", *(f"{holder} ↓" for holder in HOLDERS), "pairs (0.5)"]
    rows, remarks = [[*header, "what won"] if markdown else header], []
    order = {name: place for place, name in enumerate(METHODS)}
    for group, note in grouped(sorted(runs, key=lambda run: (order.get(run["method"], len(order)), run["seed"]))):
        found, name = [verdict(run["audit"]) for run in group if "audit" in run], group[0]["method"]
        pairs = [one["pairs"] for one in found if one["pairs"] is not None]
        auc = f"{fmean(pairs):.2f}" if pairs else "–"
        cells = [METHODS[name].title if name in METHODS else name]
        cells += [*(percent([one[holder] for one in found]) for holder in HOLDERS), auc]
        rows.append([*cells, " / ".join(dict.fromkeys(one["winner"] for one in found))] if markdown else cells)
        remarks.append(remark(group, note))
    return table_with_people(with_remarks(rows, remarks), runs, markdown)


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    args = plan_parser("verdicts", __doc__, ("out", "markdown"), out=AUDIT_FILE).parse_args(arguments)
    print(audit_summary(read_audits(args.out), args.markdown))
    return 0
