"""Every method under every attack, kept in one results file: `python -m utils.audit --help`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ..audit import summary
from ..audit.case import ATTACKS, AuditCase, Subject
from ..settings import BUILD_DIR, command, one_of
from .audit_summary import audit_store
from .benchmark import run_and_keep, runs_of, unlearned
from .plan import REFERENCES, Plan, check_plan, plan_parser, plans_of, prepared, references
from .runner import refuse
from .tables import percent, table_with_people

LOCAL = (
    "dataset", "root", "backbone", "pretrained", "train_epochs", "methods", "forget", "seed", "seeds", "dev",
    "half_unseen", "profile", "device", "out", "fresh", "quiet",
)  # fmt: skip


def run_audit(
    plan: Plan, out: Path, *, attacks: Sequence[str] | None = None, fresh: bool = False, progress: bool = True
) -> dict:
    """Unlearn with every method and seed of a plan, attack the result, write `out` after each, return the audits.

    Audits that `out` already holds, made with the same data, settings and attacks, are not repeated unless `fresh`.
    Raises CourseError. Introduced in notebook 10.
    """
    check_plan(plan)
    names = list(ATTACKS) if attacks is None else [one_of(name, ATTACKS, "attack") for name in attacks]
    store, opened = audit_store(out).checked(), {}
    runs = runs_of(plan, plan.methods, opened, progress)
    wanted = [(task, identity | {"attacks": names}) for task, identity in runs]
    function = partial(audit_run, opened, names, progress)
    return run_and_keep(function, wanted, store, plan, opened, desc="audits", fresh=fresh, progress=progress)


def audit_run(opened: dict, attacks: Sequence[str], progress: bool, plan: Plan, name: str, seed: int) -> dict:
    """Unlearn with one method and attack the result; the case of the last seed is kept in `opened`."""
    if opened.get("case", (None,))[0] != seed:
        opened["case"] = seed, plan_case(plan, seed, opened, progress)
    case = opened["case"][1]
    return {"audit": summary.audit(case.on(plan_subject(plan, case, name, seed, progress)), attacks)}


def plan_case(plan: Plan, seed: int, opened: dict, progress: bool) -> AuditCase:
    """Load or train the original and, where that is possible, the retrained model of a plan."""
    splits, recogniser = prepared(plan, seed, opened, progress)
    retrained = None
    if "retrain" in references(plan):
        outcome = unlearned(plan, splits, recogniser, "retrain", seed, progress)
        retrained = outcome.model, outcome.head
    original = recogniser.model, recogniser.head
    return summary.make_case(splits, original, retrained, seed=seed, device=plan.device)


def plan_subject(plan: Plan, case: AuditCase, name: str, seed: int, progress: bool) -> Subject:
    """Return the model to audit: a reference as it stands in the case, or what a method makes of the original."""
    if name in REFERENCES and (known := case.original if name == "original" else case.retrained) is not None:
        return known
    outcome = unlearned(plan, case.splits, case.original, name, seed, progress)
    return Subject(outcome.model, outcome.head, case.splits, plan.device)


def audit_table(audits: dict[str, list[dict]], runs: Sequence[dict] = ()) -> str:
    """Return scores and, in brackets, what was recovered and the worst person's score, in percent.

    A line per attack, a column per method.

    `runs` are the results rows behind them, which know who was forgotten.
    Introduced in notebook 10.
    """
    known = {row["attack"]: row for rows in audits.values() for row in rows}
    cells = [["attack", "metric", "stated target", *audits]]
    for name, row in known.items():
        line = [row["title"], row["metric"], row["stated_target"].replace("half", "0.5")]
        for rows in audits.values():
            mine = next((other for other in rows if other["attack"] == name), {})
            worst = f"; worst {percent([mine['worst']['score']])}" if mine.get("worst") else ""
            line.append(f"{percent([mine.get('score')])} ({percent([mine.get('recovered')])}{worst})")
        cells.append(line)
    return table_with_people(cells, runs)


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    default = ("retrain", "random_labels", "esc", "dispersion")
    parser = plan_parser("audit", summary.__doc__, LOCAL, methods=default, out=BUILD_DIR / "audit.json")
    attacks = f"all by default, or some of: {', '.join(ATTACKS)}"
    parser.add_argument("--attacks", default="", metavar="A,B", help=attacks)
    args, failed = parser.parse_args(arguments), []
    chosen = [name.strip() for name in args.attacks.split(",") if name.strip()] or None
    for plan in plans_of(args):
        results = run_audit(plan, args.out, attacks=chosen, fresh=args.fresh, progress=not args.quiet)
        for seed in dict.fromkeys(run["seed"] for run in results["runs"]):
            print(f"seed {seed}: score (recovered), in percent")
            runs = [run for run in results["runs"] if run["seed"] == seed]
            print(audit_table({run["method"]: run.get("audit", []) for run in runs}, runs))
        failed += results.get("failed", ())
    refuse(failed)
    return 0
