"""Every method under every attack, kept in one results file: `python -m utils.audit --help`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ..audit.case import ATTACKS, AuditCase, Subject
from ..audit.summary import audit, make_case
from ..faces.splits import Splits
from ..settings import BUILD_DIR, command, one_of
from ..unlearning.loop import unlearn
from ..unlearning.registry import METHODS
from .benchmark import about_run, environment, file_of, run_identity
from .plan import (
    REFERENCES,
    Plan,
    check_plan,
    method_options,
    open_splits,
    original_recogniser,
    parse_methods,
    references,
)
from .results import ResultStore
from .runner import refuse, run_missing
from .tables import percent, table_with_people


def run_audit(
    plan: Plan, out: Path, *, attacks: Sequence[str] | None = None, fresh: bool = False, progress: bool = True
) -> dict:
    """Unlearn with every method and seed of a plan, attack the result, write `out` after each, return the audits.

    Audits that `out` already holds, made with the same data, settings and attacks, are not repeated unless `fresh`.
    Raises CourseError. Introduced in notebook 10.
    """
    check_plan(plan)
    names = list(ATTACKS) if attacks is None else [one_of(name, ATTACKS, "attack") for name in attacks]
    store, finish, opened = ResultStore(out).checked(), partial(file_of, environment(plan)), {}
    tasks = [(plan, name, seed) for seed in range(plan.seed, plan.seed + plan.seeds) for name in plan.methods]
    splits = {seed: open_splits(plan, seed, opened, progress) for _, _, seed in tasks}
    wanted = [(task, audit_identity(plan, splits[task[2]], *task[1:], names)) for task in tasks]
    function, describe = partial(audit_run, opened, names, progress), partial(about_run, opened, progress)
    options = {"fresh": fresh, "finish": finish, "desc": "audits", "progress": progress}
    runs, failed = run_missing(function, wanted, store, describe=describe, **options)
    return finish(runs) | ({"failed": failed} if failed else {})


def audit_run(opened: dict, attacks: Sequence[str], progress: bool, plan: Plan, name: str, seed: int) -> dict:
    """Unlearn with one method and attack the result; the case of the last seed is kept in `opened`."""
    if opened.get("case", (None,))[0] != seed:
        opened["case"] = seed, plan_case(plan, open_splits(plan, seed, opened, progress), seed, progress)
    case = opened["case"][1]
    return {"audit": audit(case.on(plan_subject(plan, case, name, seed, progress)), attacks)}


def audit_identity(plan: Plan, splits: Splits, name: str, seed: int, attacks: Sequence[str]) -> dict:
    """Return the fields that tell one audit from another: the run's own, and the attacks."""
    return run_identity(plan, splits, name, seed) | {"attacks": list(attacks)}


def plan_case(plan: Plan, splits: Splits, seed: int, progress: bool) -> AuditCase:
    """Load or train the original and, where that is possible, the retrained model of a plan."""
    recogniser = original_recogniser(plan, splits, progress)
    retrained = None
    if "retrain" in references(plan):
        outcome = unlearned(plan, splits, recogniser, "retrain", seed, progress)
        retrained = outcome.model, outcome.head
    return make_case(splits, (recogniser.model, recogniser.head), retrained, seed=seed, device=plan.device)


def unlearned(plan: Plan, splits: Splits, start, name: str, seed: int, progress: bool):
    """Run one method of a plan on a model with a head and return its outcome."""
    options = method_options(plan, name)
    return unlearn(name, start.model, start.head, splits, seed=seed, device=plan.device, progress=progress, **options)


def plan_subject(plan: Plan, case: AuditCase, name: str, seed: int, progress: bool) -> Subject:
    """Return the model to audit: a reference as it stands in the case, or what a method makes of the original."""
    if name in REFERENCES and (known := case.original if name == "original" else case.retrained) is not None:
        return known
    outcome = unlearned(plan, case.splits, case.original, name, seed, progress)
    return Subject(outcome.model, outcome.head, case.splits, plan.device)


def audit_table(audits: dict[str, list[dict]], runs: Sequence[dict] = ()) -> str:
    """Return scores and, in brackets, what was recovered, in percent: a line per attack, a column per method.

    `runs` are the results rows behind them, which know who was forgotten.
    Introduced in notebook 10.
    """
    known = {row["attack"]: row for rows in audits.values() for row in rows}
    cells = [["attack", "metric", "stated target", *audits]]
    for name, row in known.items():
        line = [row["title"], row["metric"], row["stated_target"].replace("half", "0.5")]
        for rows in audits.values():
            mine = next((other for other in rows if other["attack"] == name), {})
            line.append(f"{percent([mine.get('score')])} ({percent([mine.get('recovered')])})")
        cells.append(line)
    return table_with_people(cells, runs)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, plan = parser.add_argument, Plan()
    add("--dataset", default=plan.dataset, metavar="NAME", help="as in python -m utils.benchmark, like what follows")
    add("--root", default="", metavar="DIR", help="folder of a data set of real faces")
    add("--backbone", default=plan.backbone, metavar="NAME", help="mini or facenet")
    add("--pretrained", default=plan.pretrained, metavar="NAME", help="auto, none, or facenet's own weights")
    add("--train-epochs", type=int, default=0, metavar="N", help="epochs of pretraining (0: the recipe's own)")
    default = "retrain,random_labels,esc,dispersion"
    add("--methods", default=default, metavar="A,B", help=f"'all', or some of: {', '.join(METHODS)}")
    add("--attacks", default="", metavar="A,B", help=f"all by default, or some of: {', '.join(ATTACKS)}")
    add("--forget", type=int, metavar="N", help="forget N people drawn by the seed (10, or fewer of few)")
    add("--seed", type=int, default=plan.seed, metavar="S", help="the first seed")
    add("--seeds", type=int, default=plan.seeds, metavar="K", help="audit K seeds, from the first one on")
    add("--dev", action="store_true", help="forget the dev-forget people instead: for choosing settings")
    add("--profile", default=plan.profile, metavar="NAME", help="quick or full")
    add("--device", default=plan.device, metavar="NAME", help="auto, cpu, cuda or mps")
    add("--out", type=Path, default=BUILD_DIR / "audit.json", metavar="FILE", help="where audits are kept")
    add("--fresh", action="store_true", help="audit these again though that file holds them; others stay")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    args = make_parser().parse_args(arguments)
    flags = {name: value for name, value in vars(args).items() if name in Plan.__dataclass_fields__}
    plan = Plan(**flags | {"methods": parse_methods(args.methods)})
    chosen = [name.strip() for name in args.attacks.split(",") if name.strip()] or None
    results = run_audit(plan, args.out, attacks=chosen, fresh=args.fresh, progress=not args.quiet)
    for seed in dict.fromkeys(run["seed"] for run in results["runs"]):
        print(f"seed {seed}: score (recovered), in percent")
        runs = [run for run in results["runs"] if run["seed"] == seed]
        print(audit_table({run["method"]: run.get("audit", []) for run in runs}, runs))
    refuse(results.get("failed", ()))
    return 0
