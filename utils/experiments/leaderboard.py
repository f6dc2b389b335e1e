"""The leaderboard of face-retrieval unlearning: a method from one file, scored and audited like all the others.

`python -m utils.leaderboard my_method.py` tries the file on a small world, runs it with three seeds on the drawn faces
and, where FACE_COURSE_LFW names Labeled Faces in the Wild, on real ones with dlib's recogniser; what is stored is not
run again. A method is given training photos alone. It stands in its class: in the weights, or a wrapper that whoever
holds the model takes off. Within a class the order is by what came back at most to an attacker without a piece of the
old model, mean over seeds; every line says what it cost in images, seconds, and in what others lose.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

from ..audit import summary
from ..audit.case import ATTACKS, AuditCase, Subject
from ..models.trunks import lent_outputs
from ..retrieval.evaluation import evaluate
from ..settings import BUILD_DIR, CourseError, command, resolve_device, resolved, sha256_of
from ..unlearning.registry import METHODS
from .audit_summary import (
    AUDIT_FILE,
    REAL_AUDITS,
    SHIPPED,
    holder_cell,
    read_audits,
    same_model,
    stored_audit,
    trace,
    verdict,
)
from .audits import plan_case
from .benchmark import (
    about_run,
    content_of,
    environment,
    map_by_person,
    read_results,
    run_identity,
    runs_of,
    unlearned,
)
from .entry import check_entry, entered, without_held_out
from .plan import STORED, Plan, check_plan
from .results import ResultStore
from .runner import refuse, run_missing
from .tables import percent, remark, score_cells, table_with_people, with_remarks

board_store = partial(ResultStore, name="leaderboard")
# where the course's own methods stand: the scores of each board, and the audits of the same models
COURSE = {
    "drawn": (STORED / "synthetic_quick.json", AUDIT_FILE),
    "real": (STORED / "lfw_dlib.json", REAL_AUDITS),
}
TRAINED = ("relearn", "relearn_others", "distil_back")  # attacks that train a network: on drawn faces only
MANY = ("batchnorm", "int8", "pruned_10", "pruned_30", "disturbed")  # and these embed everybody once more each
FACES = ("dataset", "fingerprint", "image_size", "held_out", "backbone", "pretrained")  # two runs of the same faces
CLASSES = {"weights": "in the weights", "wrapper": "wrapper", "reference": "yardstick"}


def boards(root: str = "") -> dict[str, Plan]:
    """Return the worlds a method is run on: drawn faces, and real ones where LFW is at hand."""
    root = root or os.environ.get("FACE_COURSE_LFW", "")
    found = {"drawn": Plan()}
    return found | ({"real": Plan(dataset="lfw", root=root, backbone="dlib", half_unseen=True)} if root else {})


def attacks_on(board: str) -> list[str]:
    """Return the names of the attacks that a board makes: all, or on real faces those that take seconds."""
    return [name for name in ATTACKS if board == "drawn" or name not in (*TRAINED, *MANY)]


def board_run(opened: dict, progress: bool, file: Path | None, board: str, plan: Plan, name: str, seed: int) -> dict:
    """Unlearn on training photos alone, score and attack the result; the case of the last seed is kept in `opened`.

    A worker process reads the method's `file` again.
    """
    if file and name not in METHODS:
        entered(file)
    if opened.get("case", (None,))[0] != (board, seed):
        opened["case"] = (board, seed), plan_case(plan, seed, opened, progress)
        recall_references(opened["case"][1], plan, board)
    case, device = opened["case"][1], resolve_device(plan.device)
    blind = without_held_out(case.splits)
    with lent_outputs(case.original.model, case.splits.faces, blind.faces, case.splits.train):
        outcome = unlearned(plan, blind, case.original, name, seed, progress)
    evaluation = evaluate(outcome.model, case.splits, outcome.trained_head, device=device, progress=progress)
    rows = summary.audit(
        case.on(Subject(outcome.model, outcome.head, case.splits, device)), attacks_on(board), progress
    )
    price = {"seconds": round(outcome.seconds, 2), "images_processed": outcome.images_processed}
    return price | evaluation.scores() | {"forget_people": map_by_person(evaluation), "audit": rows}


def recall_references(case: AuditCase, plan: Plan, board: str) -> None:
    """Let a case remember what the course's stored audit found on its original and its retrained model.

    Those attacks need not be made again for every entry; what is not stored is made when it is asked for.
    """
    path = COURSE[board][1]
    stored = read_audits(path) if path.exists() else []
    for name, who in (("original", "original"), ("retrain", "retrained")):
        wanted = run_identity(plan, case.splits, name, case.seed)
        same_faces = [run for run in stored if all(run.get(key) == wanted[key] for key in FACES)]
        for row in stored_audit(wanted, same_faces):
            of_strangers = {"unseen": row["target"]} if row["stated_target"] == "strangers" else {}
            case.memory[row["attack"], who] = {"score": row["score"], "note": row["note"]} | of_strangers


def run_boards(
    plans: Mapping[str, Plan], out: Path, *, file: Path | None = None, progress: bool = True, **how: object
) -> dict:
    """Do what `out` lacks of a plan's methods and seeds on each board, and return their rows; raises CourseError.

    All boards share the workers, so that none waits for another's last seed. `file` is the method's own: one that
    changed is run again. `how` goes to `run_missing`: jobs, fresh.
    """
    store, opened, wanted = board_store(out).checked(), {}, []
    for board, plan in plans.items():
        check_plan(plan)
        more = {"board": board, "attacks": attacks_on(board), "source": sha256_of(file) if file else ""}
        wanted += [((board, *task), key | more) for task, key in runs_of(plan, plan.methods, opened, progress)]
    function = partial(board_run, {} if how.get("jobs", 1) > 1 else opened, progress, file)
    rows, failed = run_missing(
        function, wanted, store, desc="leaderboard", progress=progress,
        describe=lambda _, *task: about_run(opened, progress, *task),
        finish=partial(content_of, environment(next(iter(plans.values())))), **how,
    )  # fmt: skip
    return {"runs": rows, "failed": failed}


def course_rows() -> list[dict]:
    """Return the course's own methods as rows of the boards: stored scores, each beside the audit of the same model."""
    rows = []
    for board, (scores, audits) in COURSE.items():
        audited = read_audits(audits) if audits.exists() else []
        found = {same_model(run): {key: run[key] for key in ("audit", "error") if key in run} for run in audited}
        for run in read_results(scores)["runs"]:
            if same_model(run) in found:
                more = {"board": board, "kind": METHODS[run["method"]].kind}
                rows.append(run | more | found[same_model(run)])
    return rows


def grouped_entries(rows: Iterable[dict]) -> list[list[dict]]:
    """Return the rows of each board, method and file, one per seed, in the order of the table."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["board"], row["method"], row.get("source")), []).append(row)
    return sorted(groups.values(), key=place)


def place(group: Sequence[dict]) -> tuple:
    """Return where an entry stands: by board, by class, then by what came back at most without the old model."""
    first, found = group[0], [verdict(row["audit"]) for row in group if "audit" in row]
    back = [max((one[holder] or 0.0 for holder in SHIPPED), default=1.0) for one in found]
    return first["board"], list(CLASSES).index(first["kind"]), fmean(back) if back else 2.0


HEADER = (
    "faces", "class", "method", "seeds", "images", "seconds", "forget R@1 ↓", "forget mAP ↓", "worst person ↓",
    "retain mAP ↑", "unseen mAP ↑", *(f"{holder} ↓" for holder in SHIPPED), "pairs (0.5)", "one photo (0.5)",
)  # fmt: skip
COLUMNS = (("forget", "r1"), ("forget", "map"))
OTHERS = (("retain", "map"), ("unseen", "map"))


def leaderboard(rows: Sequence[dict], markdown: bool = False) -> str:
    """Return the table of a leaderboard's rows: a line per method, in percent, mean over seeds; worst in brackets."""
    lines, remarks = [HEADER], []
    for group in grouped_entries(rows):
        name, audits = group[0]["method"], [row["audit"] for row in group if "audit" in row]
        found, title = [verdict(audit) for audit in audits], METHODS[name].title if name in METHODS else name
        worst = [max(row["forget_people"].values(), default=None) for row in group if "forget_people" in row]
        prices = [[row[key] for row in group if key in row] for key in ("images_processed", "seconds")]
        cells = [group[0]["board"], CLASSES[group[0]["kind"]], title, str(len(group))]
        cells += [f"{fmean(price):,.0f}" if price else "–" for price in prices]
        cells += [*score_cells(group, COLUMNS), percent(worst), *score_cells(group, OTHERS)]
        cells += [holder_cell(found, holder) for holder in SHIPPED]
        lines.append([*cells, *(trace(audits, attack) for attack in ("pairs", "one_photo"))])
        remarks.append(remark(group))
    if len(lines) == 1:
        return "No method has been entered yet."
    return table_with_people(with_remarks(lines, remarks), rows, markdown)


@command
def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence on what was wrong with the input."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m utils.leaderboard", description=__doc__, formatter_class=shape)
    parser.add_argument("file", nargs="?", type=Path, help="a Python file that registers one method: docs/my_method.py")
    parser.add_argument("--seeds", type=int, default=3, metavar="K", help="from seed 0 on (default 3)")
    parser.add_argument("--root", default="", metavar="DIR", help="LFW's folder (default: what FACE_COURSE_LFW names)")
    parser.add_argument("--boards", default="", metavar="A,B", help="drawn, real (default: all at hand)")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="seeds at a time, each with one thread")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where rows are kept (build/leaderboard.json)")
    for name, text in (("fresh", "run again what is stored"), ("table", "only print the stored leaderboard")):
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(arguments)
    out = args.out or BUILD_DIR / "leaderboard.json"
    failed = [] if args.table else enter(args, out)
    mine = board_store(out).rows() if args.out or not args.table else []
    print(leaderboard([*mine, *course_rows()], args.markdown))
    refuse(failed)
    return 0


def enter(args: argparse.Namespace, out: Path) -> list[dict]:
    """Check and run what a command line enters; return the runs that failed."""
    if not args.file:
        raise CourseError("Name one method file, or ask for the table with --table.")
    name = entered(args.file)
    check_entry(name)
    at_hand = boards(args.root)
    chosen = [board.strip() for board in args.boards.split(",") if board.strip()] or list(at_hand)
    if missing := [board for board in chosen if board not in at_hand]:
        raise CourseError(f"No board '{missing[0]}' at hand; there are: {', '.join(at_hand)} (real faces: --root).")
    plans = {board: replace(at_hand[board], methods=(name,), seeds=args.seeds) for board in chosen}
    how = {"file": resolved(args.file), "jobs": args.jobs, "fresh": args.fresh, "progress": not args.quiet}
    return run_boards(plans, out, **how)["failed"]
