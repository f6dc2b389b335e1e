"""Which model, head, people, seed and settings reach an audit, and which of its numbers reach which cell."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from utils.audit import summary
from utils.audit.case import ATTACKS, Subject
from utils.experiments import audits, benchmark
from utils.experiments import plan as plan_room
from utils.experiments.audit_summary import audit_summary, verdict
from utils.experiments.audits import audit_table, run_audit
from utils.experiments.plan import Plan, train_config
from utils.faces.splits import make_splits
from utils.models.checkpoints import Recogniser
from utils.models.heads import make_head
from utils.settings import BUILD_DIR, CourseError
from utils.unlearning.loop import Unlearned
from utils.unlearning.registry import METHODS


class Named(nn.Module):
    """A stand-in for a face model that knows who made it."""

    def __init__(self, maker: str, seed: int):
        super().__init__()
        self.maker, self.seed, self.weight = maker, seed, nn.Parameter(torch.zeros(1))

    def preprocess(self, faces: torch.Tensor) -> torch.Tensor:
        return faces


def named_head(maker: str, seed: int) -> nn.Module:
    made = make_head("cosface", 4, 3)
    made.maker, made.seed = maker, seed
    return made


@pytest.fixture
def seen(monkeypatch, tiny_faces):
    """What unlearning and the audit were given, with stand-ins for all models; a result tells its method and seed."""
    seen = {"unlearn": [], "audit": [], "original": []}

    def unlearn(name, model, head, splits, *, seed, **options):
        seen["unlearn"].append((name, model, head, splits, seed, options))
        return Unlearned(Named(name, seed), named_head(name, seed))

    def original(plan, splits, progress):
        seen["original"].append((plan, splits.seed))
        return Recogniser(Named("original", splits.seed), named_head("original", splits.seed), "test", 0.0)

    def audit(case, attacks):
        seen["audit"].append((case, attacks))
        return [{"attack": name, "of": [case.subject.model.maker, case.subject.model.seed]} for name in attacks]

    monkeypatch.setattr(plan_room, "load_faces", lambda *_, **__: tiny_faces)
    monkeypatch.setattr(benchmark, "unlearn", unlearn)
    monkeypatch.setattr(plan_room, "original_recogniser", original)
    monkeypatch.setattr(summary, "audit", audit)
    return seen


METHODS_ASKED = ("original", "retrain", "esc", "dispersion")


def plan_of(**changes) -> Plan:
    settings = {"methods": METHODS_ASKED, "forget": 2, "train_epochs": 7, "seed": 3, "seeds": 2, "device": "cpu"}
    return Plan(**settings | {"options": (("dispersion", "steps", 5),)} | changes)


@pytest.mark.parametrize("dev", [False, True])
def test_every_model_head_seed_and_person_of_an_audit_is_the_right_one(dev, seen, tiny_faces, tmp_path):
    rows = run_audit(plan_of(dev=dev), tmp_path / "a.json", attacks=["pairs", "search"], progress=False)["runs"]
    assert [(row["method"], row["seed"]) for row in rows] == [(name, seed) for seed in (3, 4) for name in METHODS_ASKED]
    assert len(seen["audit"]) == 8
    for row, (case, attacks) in zip(rows, seen["audit"], strict=True):
        name, seed = row["method"], row["seed"]
        assert attacks == row["attacks"] == ["pairs", "search"]
        assert row["audit"] == [{"attack": attack, "of": [name, seed]} for attack in attacks]
        wanted = {"subject": name, "original": "original", "retrained": "retrain"}
        for role, maker in wanted.items():
            subject = getattr(case, role)
            made = [(part.maker, part.seed) for part in (subject.model, subject.head)]
            assert made == [(maker, seed)] * 2, role
            assert subject.splits is case.splits and str(subject.device) == "cpu"
        people = make_splits(tiny_faces, n_forget=2, seed=seed)
        assert case.splits.forget == (people.dev_forget if dev else people.forget) and case.seed == seed
        assert row["forget_ids"] == [tiny_faces.identities[label] for label in case.splits.forget]
        known = {"original": case.original, "retrain": case.retrained}  # audited as they stand, and so only once
        assert name not in known or case.subject is known[name]
        assert case.memory is seen["audit"][0 if seed == 3 else 4][0].memory, "references are attacked once a seed"
    assert seen["audit"][0][0].memory is not seen["audit"][4][0].memory
    assert [seed for _, seed in seen["original"]] == [3, 4]


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_unlearning_starts_at_the_original_with_the_settings_of_the_plan(profile, seen, tmp_path):
    plan = plan_of(profile=profile, methods=("dispersion", "esc", "original", "retrain"))
    run_audit(plan, tmp_path / "a.json", attacks=["search"], progress=False)
    expected = [(name, seed) for seed in (3, 4) for name in ("retrain", "dispersion", "esc")]
    assert [(call[0], call[4]) for call in seen["unlearn"]] == expected
    full = {name: METHODS[name].full if profile == "full" else {} for name in METHODS}
    for name, model, head, splits, seed, options in seen["unlearn"]:
        assert (model.maker, model.seed, head.maker, head.seed) == ("original", seed, "original", seed)
        assert splits.seed == seed and str(options.pop("device")) == "cpu" and options.pop("progress") is False
        wanted = {"retrain": {"epochs": 7}, "dispersion": full["dispersion"] | {"steps": 5}, "esc": full["esc"]}
        assert wanted[name].items() <= options.items()
        assert len(options) == len(wanted[name]) or name == "retrain"
    assert train_config(plan).epochs == 7


def test_where_nobody_can_be_retrained_there_is_no_retrained_model(seen, tmp_path):
    plan = plan_of(backbone="facenet", pretrained="vggface2", methods=("original", "esc"), seeds=1)
    run_audit(plan, tmp_path / "a.json", attacks=["search"], progress=False)
    assert [case.retrained for case, _ in seen["audit"]] == [None, None]
    assert [call[0] for call in seen["unlearn"]] == ["esc"]
    asked = plan_of(backbone="facenet", pretrained="vggface2", methods=("retrain",), seeds=1)
    run_audit(asked, tmp_path / "a.json", attacks=["search"], progress=False)
    assert seen["audit"][-1][0].subject.model.maker == "retrain"


def test_all_attacks_by_default_and_unknown_ones_are_refused_before_the_work(seen, tmp_path):
    rows = run_audit(plan_of(methods=("esc",), seeds=1), tmp_path / "a.json", progress=False)["runs"]
    assert rows[0]["attacks"] == [entry["attack"] for entry in rows[0]["audit"]] == list(ATTACKS)
    for wrong in ({"attacks": ["searching"]}, {"plan": plan_of(methods=("escape",))}):
        plan = wrong.pop("plan", plan_of())
        with pytest.raises(CourseError, match="Unknown"):
            run_audit(plan, tmp_path / "b.json", **wrong)
    assert len(seen["audit"]) == 1


def test_another_number_of_people_seed_profile_or_list_of_attacks_is_another_audit(seen, tmp_path):
    out, base = tmp_path / "a.json", {"methods": ("esc",), "seeds": 1}
    for number, changes in enumerate(({}, {"seed": 4}, {"forget": 1}, {"profile": "full"}, {"dev": True}), start=1):
        run_audit(plan_of(**base | changes), out, attacks=["search"], progress=False)
        run_audit(plan_of(**base | changes), out, attacks=["search"], progress=False)
        assert len(seen["audit"]) == number
    run_audit(plan_of(**base), out, attacks=["search", "pairs"], progress=False)
    run_audit(plan_of(**base), out, attacks=["search"], fresh=True, progress=False)
    assert len(seen["audit"]) == 7


def test_a_subject_is_stripped_of_what_runs_it_in_parallel():
    model, head = Named("esc", 0), named_head("esc", 0)
    subject = Subject(nn.DataParallel(model), nn.DataParallel(head), None)
    assert subject.model is model and subject.head is head


# ------------------------------------------------------------------------------------------------- the table of attacks


def entry(attack: str, score: float | None, share: float | None, **more: str) -> dict:
    about = {"title": f"the {attack}", "attacker": "photos", "metric": "mAP", "stated_target": "chance"} | more
    return {"attack": attack, "score": score, "recovered": share, "target": 0.111, "original": 0.999} | about


def test_a_line_per_attack_holds_score_and_share_of_each_method():
    audits_of = {
        "esc": [entry("search", 0.25, 0.1), entry("pairs", 0.75, 0.5, metric="AUC", stated_target="half")],
        "scrub": [
            entry("layers", 0.125, None, stated_target="retrained"),
            entry("pairs", 0.375, 0.25, metric="AUC", stated_target="half"),
        ],
    }
    audits_of["scrub"][1]["worst"] = {"person": "A", "score": 0.5, "recovered": 0.9}
    run = {"method": "esc", "n_forget": 2, "seed": 0, "forget_ids": ["A", "B"], "dataset": "tiny"}
    table = audit_table(audits_of, [run])
    assert table.rows == [
        ["attack", "metric", "stated target", "esc", "scrub"],
        ["the search", "mAP", "chance", "25.0 (10.0)", "– (–)"],
        ["the pairs", "AUC", "0.5", "75.0 (50.0)", "37.5 (25.0; worst 50.0)"],
        ["the layers", "mAP", "retrained", "– (–)", "12.5 (–)"],
    ]
    assert table.notes == ["Forgotten (tiny, 2), drawn by seed: seed 0: A, B."] and not audit_table(audits_of).notes


def test_the_command_prints_each_seed_by_itself_and_hands_its_flags_on(monkeypatch, capsys):
    calls = []

    def run(plan, out, **how):
        calls.append((plan, out, how))
        people = {"n_forget": plan.forget, "dataset": "tiny", "forget_ids": ["A"]}
        runs = [
            {"method": name, "seed": seed, "audit": [entry("search", share, share / 2)]} | people
            for seed, name, share in ((5, "esc", 0.1), (6, "esc", 0.3), (5, "scrub", 0.5), (6, "scrub", 0.7))
        ]
        broken = {"method": "ssd", "seed": 6, "error": "It diverged."} | people
        return {"runs": [*runs, broken], "failed": [broken] if plan.forget == 4 else []}

    monkeypatch.setattr(audits, "run_audit", run)
    assert audits.main(["--methods", "esc,scrub", "--seed", "5", "--seeds", "2", "--forget", "2,3", "--quiet"]) == 0
    (first, out, how), (second, *_) = calls
    assert (first.forget, second.forget, first.seed, first.seeds) == (2, 3, 5, 2) and first.methods == ("esc", "scrub")
    assert out == BUILD_DIR / "audit.json" and how == {"attacks": None, "fresh": False, "progress": False}
    printed = capsys.readouterr().out.splitlines()
    assert len([line for line in printed if line.startswith("seed 5:")]) == 2
    start = printed.index("seed 6: score (recovered), in percent")
    assert printed[1].split()[-3:] == ["target", "esc", "scrub"]
    assert printed[2].split()[-4:] == ["10.0", "(5.0)", "50.0", "(25.0)"]
    assert printed[start + 1].split()[-4:] == ["target", "esc", "scrub", "ssd"]
    assert printed[start + 2].split()[-6:] == ["30.0", "(15.0)", "70.0", "(35.0)", "–", "(–)"]
    assert "No result: ssd, seed 6" in printed[start + 4] and "seed 6" in printed[start + 3]
    flags = ["--attacks", " pairs , search", "--fresh", "--forget", "4", "--out", "there.json", "--profile", "full"]
    flags += ["--dev", "--device", "cpu", "--train-epochs", "6", "--backbone", "facenet", "--pretrained", "none"]
    assert audits.main(flags) == 2 and "It diverged" in capsys.readouterr().err
    plan, out, how = calls[-1]
    assert how == {"attacks": ["pairs", "search"], "fresh": True, "progress": True} and out.name == "there.json"
    assert plan.methods == ("retrain", "random_labels", "esc", "dispersion") and (plan.seed, plan.seeds) == (0, 1)
    assert (plan.profile, plan.dev, plan.device, plan.train_epochs) == ("full", True, "cpu", 6)
    assert (plan.backbone, plan.pretrained) == ("facenet", "none")


# ------------------------------------------------------------------------------------------------- the summary

HELD = ("photos", "names", "old gallery", "weights", "old head", "old model")


def audit_of(shift: float) -> list[dict]:
    """Two attacks a kind of attacker, other shares everywhere; the pairs stand apart."""
    rows = [entry("pairs", 0.6 + shift, 0.95, metric="AUC"), entry("pairs_train", 0.9, 0.99, metric="AUC")]
    for place, holder in enumerate(HELD):
        for name, share in (("low", 0.02), ("high", 0.1), ("none", None), ("middle", 0.05)):
            more = None if share is None else share + 0.2 * place + shift
            worst = {} if share is None else {"worst": {"person": "A", "score": 0.9, "recovered": more + 0.1}}
            rows.append(entry(f"{name} {holder}", 0.01 * place, more, attacker=holder) | worst)
    return rows


def test_a_verdict_holds_the_most_of_each_attacker_and_of_the_worst_person():
    found = verdict(audit_of(0.0))
    assert found.pop("winner") == "the high weights"
    assert found.pop("raw") == {"names": None, "weights": None}
    shares = [0.1, 0.3, 0.5, 0.7, 0.9, 1.1]  # as if they could be above 1
    assert found.pop("worst") == pytest.approx(
        {holder: share + 0.1 for holder, share in zip(HELD, shares, strict=True)}
    )
    assert found == pytest.approx(dict(zip(HELD, shares, strict=True)))
    nothing = [row | {"recovered": 0.0} for row in audit_of(0.0) if row["metric"] == "mAP"]
    assert {holder: verdict(nothing)[holder] for holder in HELD} == dict.fromkeys(HELD, 0.0)
    assert verdict(nothing)["winner"] == verdict([])["winner"] == "none"
    assert {holder: verdict([])[holder] for holder in HELD} == verdict([])["worst"] == dict.fromkeys(HELD)


def run_of(method: str, seed: int, rows: list[dict] | None = None, **more: object) -> dict:
    result = {"error": "The run diverged."} if rows is None else {"audit": rows}
    people = {"n_forget": 1, "forget_ids": [f"P{seed}"], "dataset": "tiny"}
    return {"method": method, "seed": seed} | people | result | more


def test_the_summary_is_the_mean_over_seeds_of_each_attackers_most():
    names = [
        [row | {"title": row["title"].upper()} for row in audit_of(0.2)],
        [row for row in audit_of(0.0) if row["attacker"] == "names"],
    ]
    runs = [
        run_of("other", 0, names[1]),
        run_of("scrub", 1),
        run_of("scrub", 0, audit_of(0.0)),
        run_of("esc", 1, names[0]),
        run_of("esc", 0, audit_of(0.0)),
        run_of("original", 0, names[1]),
        run_of("original", 1, names[1]),
    ]
    table = audit_summary(runs)
    assert table.rows == [
        ["method", *(f"{holder} ↓" for holder in HELD), "names, raw top-1", "weights, raw mAP", "remark"],
        ["Original model", "–", "30.0 ± 0.0 (40)", *["–"] * 6, ""],
        ["SCRUB with rewind", "10.0 (20)", "30.0 (40)", "50.0 (60)", "70.0 (80)", "90.0 (100)", "110.0 (120)"]
        + ["–", "–", "diverged: seed 1"],
        # means of 0.1 and 0.3, 0.3 and 0.5, and so on, half the range is 0.1; the worst person has 0.1 more
        ["Erasing a subspace (ESC)", "20.0 ± 10.0 (30)", "40.0 ± 10.0 (50)", "60.0 ± 10.0 (70)", "80.0 ± 10.0 (90)"]
        + ["100.0 ± 10.0 (110)", "120.0 ± 10.0 (130)", "–", "–", ""],
        ["other", "–", "30.0 (40)", *["–"] * 6, ""],
    ]
    assert [row[1] for row in audit_summary(runs, traces=True).rows] == ["pairs (0.5)", "–", "0.60", "0.70", "–"]
    assert "seed 0: P0; seed 1: P1" in table.notes[0]
    lines = audit_summary(runs, markdown=True).splitlines()
    assert (
        lines[1] == "| " + " | ".join(["---"] * 11) + " |"
        and lines[0].split(" | ")[-2:] == ["what won", "remark |"]
        and "what won" not in table
    )
    best, only = "the high weights", "the high names"
    assert [line.split(" | ")[-2] for line in lines[2:6]] == [only, best, f"{best} / {best.upper()}", only]


def test_other_settings_are_other_lines():
    runs = [run_of("esc", 0, audit_of(0.0)), run_of("esc", 0, audit_of(0.2), n_forget=3, forget_ids=["A", "B", "C"])]
    assert [row[1] for row in audit_summary(runs).rows] == ["photos ↓", "10.0 (20)", "30.0 (40)"]


def test_the_verdicts_come_from_the_file_that_was_named(monkeypatch, capsys):
    room, given = importlib.import_module("utils.experiments.audit_summary"), []  # the wing's name is the function
    runs = [run_of("esc", 0, audit_of(0.0))]
    monkeypatch.setattr(room, "read_audits", lambda path: given.append(path) or runs)
    assert room.main(["--out", "x.json"]) == 0 and "what won" not in capsys.readouterr().out
    assert room.main(["--markdown"]) == 0 and "| what won |" in capsys.readouterr().out
    assert [path.name for path in given] == ["x.json", "audit.json"] and given[1] == room.AUDIT_FILE
