"""What the stored audits say, a line per method: `python -m utils.verdicts`; `python -m utils.audit` makes them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from .benchmark import percent, read_results
from .settings import REPO_ROOT, command
from .tables import text_table
from .unlearning import METHODS

AUDIT_FILE = REPO_ROOT / "data" / "results" / "audit.json"
HOLDERS = ("photos", "names", "old gallery", "weights")


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


def verdicts_table(runs: Sequence[dict], markdown: bool = False) -> str:
    """Return a line per audited method: the most that came back (percent) by what the attacker holds. Notebook 10."""
    header = ["method", *(f"{holder} ↓" for holder in HOLDERS), "pairs (0.5)"]
    rows = [[*header, "what won"] if markdown else header]
    order = {name: place for place, name in enumerate(METHODS)}
    for run in sorted(runs, key=lambda run: (order.get(run["method"], len(order)), run["seed"])):
        found = verdict(run["audit"])
        title = METHODS[run["method"]].title if run["method"] in METHODS else run["method"]
        auc = "–" if found["pairs"] is None else f"{found['pairs']:.2f}"
        cells = [title, *(percent([found[holder]]) for holder in HOLDERS), auc]
        rows.append([*cells, found["winner"]] if markdown else cells)
    return text_table(rows, markdown)


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    parser = argparse.ArgumentParser(prog="python -m utils.verdicts", description=__doc__)
    parser.add_argument("--out", type=Path, default=AUDIT_FILE, metavar="FILE", help="an audit file (the course's)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    args = parser.parse_args(arguments)
    runs = read_results(args.out)["runs"]
    print(verdicts_table(runs, args.markdown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
