"""The leaderboard: the template enters, bad files are refused in a sentence, and the table says what it stands for."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from utils.audit.case import ATTACKS, HOLDINGS, AuditCase
from utils.experiments import entry, leaderboard
from utils.experiments import plan as plan_room
from utils.experiments.audit_summary import came_back, read_audits
from utils.experiments.plan import Plan
from utils.faces.splits import make_splits
from utils.settings import REPO_ROOT
from utils.unlearning.registry import METHODS

TEMPLATE = REPO_ROOT / "docs" / "my_method.py"
LAST = "run_steps(task, config, losses)"


@pytest.fixture(autouse=True)
def small(monkeypatch, tiny_splits):
    """Try methods on the tiny world, in copies, and forget them afterwards."""
    before = dict(METHODS)
    monkeypatch.setattr(entry, "trial_world", functools.cache(lambda: copy.deepcopy(tiny_splits)))
    yield
    METHODS.clear()
    METHODS.update(before)


def file_with(tmp_path, *changes: tuple[str, str]):
    """The template with some of its text changed."""
    text = TEMPLATE.read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) >= 1
        text = text.replace(old, new)
    path = tmp_path / "method.py"
    path.write_text(text, encoding="utf-8")
    return path


def afterwards(line: str) -> tuple[str, str]:
    return LAST, f"{LAST}\n    {line}"


SECOND = 'method("second", StepConfig, title="", needs=(), source="", notebook="")(lambda task, config: None)'
WEIGHT = "next(task.model.parameters()).data"
NEGATIVE = "task.model.embedding[2].running_var.fill_(-9)"  # finite, and its root is not
BAD = {
    "no method": (("@method(", "@(lambda *a, **k: lambda f: f)("), "registers 0 methods, and one is wanted"),
    "two": (("@dataclass", f"{SECOND}\n\n\n@dataclass"), "registers 2 methods, and one is wanted"),
    "no Python": (("@dataclass", "1 / 0\n\n\n@dataclass"), r"cannot be imported \(ZeroDivisionError"),
    "a taken name": (('"my_method",', '"esc",'), "takes the name of 'esc'"),
    "NaN weights": (afterwards(f"{WEIGHT}.fill_(float('nan'))"), "not finite numbers"),
    "NaN embeddings": (afterwards(NEGATIVE), "embeddings are NaN"),
    "changed photos": (afterwards("task.splits.faces.pixels[0] += 1"), "changes the photos or splits"),
    "changed labels": (afterwards("task.splits.faces.labels[0] += 1"), "changes the photos or splits"),
    "changed parts": (afterwards("task.splits.gallery[0] += 1"), "changes the photos or splits"),
    "queries": (afterwards(f"{WEIGHT}.add_(len(task.splits.query))"), "held-out"),
    "held-out photos": (afterwards(f"{WEIGHT}.add_(task.splits.faces.images(range(120)).float().mean())"), "held-out"),
    "a gallery it needs": (afterwards("task.splits.gallery[0]"), "held-out"),
    "no seed": (afterwards(f"{WEIGHT}.add_(__import__('time').perf_counter() % 1)"), "task.seed"),
    "a failure": (afterwards("task.nothing"), r"fails on a small trial \(AttributeError"),
    "another kind": (('kind="weights"', 'kind="wrapper"'), "adds no part to the network: say kind='weights'"),
}


@pytest.mark.parametrize("which", BAD)
def test_a_bad_file_is_refused_in_one_sentence(which, tmp_path, capsys):
    change, said = BAD[which]
    flags = [str(file_with(tmp_path, change)), "--out", str(tmp_path / "x.json"), "--quiet"]
    assert leaderboard.main(flags) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ") and "\n" not in told and re.search(said, told), told
    assert not (tmp_path / "x.json").exists() and METHODS["esc"].title == "Erasing a subspace (ESC)"


def test_a_missing_file_or_nothing_at_all_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("FACE_COURSE_LFW", raising=False)
    for flags, said in (
        ([str(tmp_path / "none.py")], "There is no method file"),
        ([], "Name one method file, or ask for the table"),
        ([str(TEMPLATE), "--boards", "real"], "No board 'real' at hand; there are: drawn"),
    ):
        assert leaderboard.main(flags) == 2
        assert said in capsys.readouterr().err


def test_the_template_passes_the_trial_and_is_short():
    assert len(TEMPLATE.read_text(encoding="utf-8").splitlines()) <= 40
    name = entry.entered(TEMPLATE)
    assert name == "my_method"
    entry.check_entry(name)


def test_a_method_gets_training_photos_alone(tiny_splits):
    blind, old = entry.without_held_out(tiny_splits), tiny_splits
    assert len(blind.query) == len(blind.gallery) == 0 and np.array_equal(blind.train, old.train)
    for photo in range(len(old.faces)):
        seen = blind.faces.pixels[photo]
        assert torch.equal(seen, old.faces.pixels[photo]) if photo in old.train else (seen == 127).all()
    assert blind.faces.fingerprint != old.faces.fingerprint and (old.forget, old.retain) == (blind.forget, blind.retain)


def test_the_trial_is_a_small_world_of_drawn_people(own_cache, monkeypatch):
    monkeypatch.undo()
    splits = entry.trial_world.__wrapped__()
    assert len(splits.forget) == 2 and len(splits.faces.identities) == 12 and splits.unseen
    assert all(
        len(splits.photos(pool, part)) for pool in ("forget", "retain") for part in ("train", "query", "gallery")
    )


@pytest.fixture
def tiny_boards(monkeypatch, tiny_faces, own_cache):
    """One board, of the tiny world, with a few attacks."""
    monkeypatch.setattr(plan_room, "load_faces", lambda *_, **__: tiny_faces)
    plan = Plan(forget=2, train_epochs=1, device="cpu")
    monkeypatch.setattr(leaderboard, "boards", lambda root="": {"drawn": plan})
    monkeypatch.setattr(leaderboard, "attacks_on", lambda board: ["search", "pairs", "layers"])


def test_the_template_is_entered_kept_and_not_run_again(tiny_boards, tmp_path, monkeypatch, capsys):
    seen, real, out = [], leaderboard.unlearned, tmp_path / "board.json"

    def unlearned(plan, splits, start, name, seed, progress):
        seen.append((len(splits.query), name, seed))
        return real(plan, splits, start, name, seed, progress)

    monkeypatch.setattr(leaderboard, "unlearned", unlearned)
    quick = file_with(tmp_path, ("steps: int = 50", "steps: int = 2"))
    flags = [str(quick), "--seeds", "2", "--out", str(out), "--quiet"]
    assert leaderboard.main(flags) == 0
    assert seen == [(0, "my_method", 0), (0, "my_method", 1)]
    printed = capsys.readouterr().out
    assert "My method" in printed and "in the weights" in printed and "Forgotten (tiny, 2), drawn by seed" in printed
    rows = json.loads(out.read_text())["runs"]
    assert [(row["method"], row["seed"], row["board"], row["kind"]) for row in rows] == [
        ("my_method", 0, "drawn", "weights"),
        ("my_method", 1, "drawn", "weights"),
    ]
    assert all([one["attack"] for one in row["audit"]] == ["search", "pairs", "layers"] for row in rows)
    for row in rows:
        assert row["forget"]["map"] == pytest.approx(row["audit"][0]["score"], abs=1e-6)
        assert row["audit"][0]["worst"]["score"] == pytest.approx(max(row["forget_people"].values()), abs=1e-4)
    METHODS.pop("my_method")
    assert leaderboard.main(flags) == 0 and len(seen) == 2, "what is stored is not run again"
    METHODS.pop("my_method")
    quick.write_text(quick.read_text() + "# another file\n")
    assert leaderboard.main(flags) == 0 and len(seen) == 4, "a file that changed is another entry"
    assert leaderboard.main(["--table", "--markdown", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("| My method |") == 2


def test_all_boards_share_one_run_and_one_file(tiny_boards, tmp_path, monkeypatch):
    (plan,) = leaderboard.boards().values()
    monkeypatch.setattr(leaderboard, "boards", lambda root="": {"drawn": plan, "real": replace(plan, held_out="half")})
    monkeypatch.setattr(leaderboard, "attacks_on", lambda board: ["search"] if board == "real" else ["search", "pairs"])
    calls, real = [], leaderboard.run_missing
    monkeypatch.setattr(leaderboard, "run_missing", lambda *a, **how: calls.append(how) or real(*a, **how))
    quick, out = file_with(tmp_path, ("steps: int = 50", "steps: int = 1")), tmp_path / "board.json"
    assert leaderboard.main([str(quick), "--seeds", "1", "--jobs", "1", "--out", str(out), "--quiet"]) == 0
    rows = json.loads(out.read_text())["runs"]
    found = {row["board"]: [one["attack"] for one in row["audit"]] for row in rows}
    assert found == {"drawn": ["search", "pairs"], "real": ["search"]} and len(calls) == 1
    assert [row["held_out"] for row in rows] == ["fifth", "half"]
    METHODS.pop("my_method")


def test_references_are_recalled_of_the_same_faces_and_people_alone(tiny_boards, tiny_splits, tmp_path, monkeypatch):
    (plan,) = leaderboard.boards().values()
    splits = make_splits(tiny_splits.faces, n_forget=2, seed=0)
    numbers = {"trait_leakage": (0.8, 0.3), "layers": (0.7, 0.7)}
    rows = [
        {"attack": name, "score": score, "target": target, "original": None, "recovered": None, "note": ""}
        | {"attacker": ATTACKS[name].attacker, "metric": ATTACKS[name].metric, "stated_target": ATTACKS[name].target}
        for name, (score, target) in numbers.items()
    ]
    runs = [
        leaderboard.run_identity(plan, splits, name, 0) | {"attacks": [], "audit": rows}
        for name in ("original", "retrain")
    ]
    path = tmp_path / "audit.json"
    monkeypatch.setattr(leaderboard, "COURSE", {"drawn": (path, path)})

    def memory(seed: int = 0, **changes) -> dict:
        path.write_text(json.dumps({"schema": 2, "environment": {}, "runs": [run | changes for run in runs]}))
        case = AuditCase(None, None, None, splits, seed)
        leaderboard.recall_references(case, plan, "drawn")
        return case.memory

    found = memory()
    assert found["trait_leakage", "retrained"] == {"score": 0.8, "note": "", "unseen": 0.3}
    assert found["layers", "original"] == {"score": 0.7, "note": ""} and len(found) == 4
    others = ({"fingerprint": "others"}, {"backbone": "dlib"}, {"forget_ids": ["a", "b"]}, {"train": {"epochs": 9}})
    assert not any(memory(**other) for other in others) and not memory(seed=1)
    path.unlink()
    case = AuditCase(None, None, None, splits)
    leaderboard.recall_references(case, plan, "drawn")
    assert case.memory == {}


def entry_of(method: str, seed: int, shares: dict[str, float], **more) -> dict:
    rows = [
        {"attack": holder, "title": holder, "attacker": holder, "metric": "mAP", "recovered": share, "score": share}
        for holder, share in shares.items()
    ]
    scores = {pool: {"r1": 0.5, "map": 0.25} for pool in ("forget", "retain", "unseen")}
    row = {
        "method": method,
        "seed": seed,
        "board": "drawn",
        "kind": "weights",
        "audit": rows,
        "forget_people": {"A": 0.5},
    }
    return row | {"seconds": 10.0 + seed, "images_processed": 1000, "dataset": "tiny"} | scores | more


def test_the_table_keeps_classes_apart_and_orders_by_what_came_back():
    rows = [
        entry_of("esc", 0, {"photos": 0.1}, kind="wrapper"),
        entry_of("scrub", 0, {"photos": 0.2, "weights": 0.6}),
        entry_of("scrub", 1, {"photos": 0.2, "weights": 0.8}),
        entry_of("dispersion", 0, {"photos": 0.3, "names": 0.4, "old model": 1.0}),
        entry_of("ssd", 0, {}) | {"audit": None, "error": "The run diverged."},
        entry_of("dispersion", 0, {"photos": 0.0}, board="real"),
    ]
    del rows[4]["audit"]
    table = leaderboard.leaderboard(rows).rows
    assert [(row[0], row[1], row[3]) for row in table[1:]] == [
        ("drawn", "in the weights", "1"),  # dispersion: 0.4 at most; who holds the old model does not count
        ("drawn", "in the weights", "2"),  # scrub: 0.7 on the mean
        ("drawn", "in the weights", "1"),  # ssd: no result
        ("drawn", "wrapper", "1"),
        ("real", "in the weights", "1"),
    ]
    assert table[2][4:11] == ["1,000", "10", "50.0 ± 0.0", "25.0 ± 0.0", "50.0 ± 0.0", "25.0 ± 0.0", "25.0 ± 0.0"]
    assert table[2][11:15] == ["20.0 ± 0.0", "–", "–", "70.0 ± 10.0"] and "diverged" in table[3][-1]
    assert leaderboard.leaderboard([]) == "No method has been entered yet."


def test_real_faces_are_a_board_where_they_are_and_meet_the_attacks_of_seconds(monkeypatch, tmp_path):
    monkeypatch.delenv("FACE_COURSE_LFW", raising=False)
    assert leaderboard.boards() == {"drawn": Plan()}
    monkeypatch.setenv("FACE_COURSE_LFW", str(tmp_path))
    real = leaderboard.boards()["real"]
    assert (real.dataset, real.backbone, real.root) == ("lfw", "dlib", str(tmp_path))
    assert leaderboard.boards("there")["real"].root == "there"
    assert leaderboard.attacks_on("drawn") == list(ATTACKS)
    assert {"search", "int4", "one_photo", "adversarial_query"} < set(leaderboard.attacks_on("real")) < set(ATTACKS)
    assert dataclasses.is_dataclass(real)


def test_the_courses_own_methods_stand_beside_with_scores_and_audit_of_the_same_model(monkeypatch, tmp_path, capsys):
    same = {"forget_ids": ["A"], "config": {"steps": 1}, "train": {"epochs": 1}}
    scores = [
        entry_of(method, seed, {}) | same | {"config": {"steps": steps}}
        for method, seed, steps in (("esc", 0, 1), ("esc", 1, 1), ("scrub", 0, 1), ("scrub", 1, 2))
    ]
    for row in scores:
        del row["audit"], row["board"], row["kind"]
    audits = [
        {"method": method, "seed": seed, **same, "audit": [{"attack": "search", "score": seed}]}
        for method, seed in (("scrub", 1), ("esc", 1), ("esc", 0))
    ]
    monkeypatch.setattr(leaderboard, "read_results", lambda path: {"runs": scores})
    monkeypatch.setattr(leaderboard, "read_audits", lambda path: audits)
    paths = {"drawn": (tmp_path / "a", tmp_path), "real": (tmp_path / "a", tmp_path / "none")}
    monkeypatch.setattr(leaderboard, "COURSE", paths)
    rows = leaderboard.course_rows()  # scrub's audit is of other settings, and nothing real was audited
    assert [(row["method"], row["seed"], row["board"], row["kind"]) for row in rows] == [
        ("esc", 0, "drawn", "wrapper"),
        ("esc", 1, "drawn", "wrapper"),
    ]
    assert [row["audit"][0]["score"] for row in rows] == [0, 1]
    for row in audits:
        row["audit"] = entry_of("esc", 0, {"photos": 0.5})["audit"]
    assert leaderboard.main(["--table", "--markdown"]) == 0
    assert "| Erasing a subspace (ESC) | 2 |" in capsys.readouterr().out


def test_stored_runs_on_real_faces_and_their_audit_make_the_real_board(monkeypatch, tmp_path, capsys):
    """A small file of each kind, as the benchmark and the audit write them; nothing is retrained there."""
    same = {"dataset": "lfw", "n_forget": 1, "forget_ids": ["A"], "config": {"steps": 1}, "train": {"epochs": 1}}
    scores, audits = [], []
    for seed in (0, 1):
        score = entry_of("dispersion_blends", seed, {}) | same
        scores.append({key: value for key, value in score.items() if key not in ("audit", "board", "kind")})
        rows = [
            {"attack": "search", "title": "search", "attacker": "photos", "metric": "mAP", "stated_target": "chance"}
            | {"score": 0.2 + seed / 10, "target": 0.1, "original": 0.9, "recovered": 0.25, "worst": None},
            {
                "attack": "layers",
                "title": "layers",
                "attacker": "weights",
                "metric": "mAP",
                "stated_target": "retrained",
            }
            | {"score": 0.7, "target": None, "original": 0.9, "recovered": None, "worst": None},
        ]
        audits.append(
            {"method": "dispersion_blends", "seed": seed, "attacks": ["search", "layers"], "audit": rows} | same
        )
    for name, runs in (("lfw_dlib.json", scores), ("audit_lfw.json", audits)):
        (tmp_path / name).write_text(json.dumps({"schema": 2, "environment": {}, "runs": runs}), encoding="utf-8")
    paths = tmp_path / "lfw_dlib.json", tmp_path / "audit_lfw.json"
    monkeypatch.setattr(leaderboard, "COURSE", {"real": paths})
    assert leaderboard.main(["--table", "--markdown"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "beside blends" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["real", "in the weights", "Dispersion beside blends", "2"]
    assert cells[11:15] == ["25.0 ± 0.0", "–", "–", "–"]  # photos; no names, no old gallery; no share without a target
    lost = ("forget", "retain", "unseen", "forget_people", "images_processed", "seconds", "audit")
    for k, rows in enumerate((scores, audits)):  # of one seed the scores diverged, of the other the audit
        rows[k] = {key: value for key, value in rows[k].items() if key not in lost} | {"error": "It diverged."}
        paths[k].write_text(json.dumps({"schema": 2, "environment": {}, "runs": rows}), encoding="utf-8")
    assert leaderboard.main(["--table", "--markdown"]) == 0
    (marked,) = [line for line in capsys.readouterr().out.splitlines() if "beside blends" in line and line[0] == "|"]
    assert marked.strip("| ").split(" | ")[3] == "2" and "diverged" in marked
    audits[1] = audits[0] | {"seed": 1}
    paths[1].write_text(json.dumps({"schema": 2, "environment": {}, "runs": audits}), encoding="utf-8")
    table = came_back(read_audits(paths[1]))  # the same file, as notebook 10 draws it
    shares = table["Dispersion beside blends"]
    assert shares["photos"] == 0.25 and math.isnan(shares["weights"]) and list(shares) == list(HOLDINGS)


def test_a_worker_process_reads_the_methods_file_itself(tiny_boards, monkeypatch):
    monkeypatch.delitem(METHODS, "my_method", raising=False)
    plan = replace(leaderboard.boards()["drawn"], methods=("my_method",), options=(("my_method", "steps", 1),))
    row = leaderboard.board_run({}, False, TEMPLATE, "drawn", plan, "my_method", 0)
    assert METHODS.pop("my_method").kind == "weights"
    assert [found["attack"] for found in row["audit"]] == ["search", "pairs", "layers"] and row["images_processed"] > 0
