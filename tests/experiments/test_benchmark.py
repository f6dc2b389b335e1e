"""The benchmark command: schema, resuming, refusals, tables."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from utils.experiments import benchmark
from utils.experiments import plan as plan_room
from utils.experiments import results as results_room
from utils.experiments.benchmark import main, read_results, results_table, run_benchmark, run_plans
from utils.experiments.plan import Plan, parse_option
from utils.experiments.results import write_results
from utils.experiments.tables import percent
from utils.faces.splits import make_splits
from utils.models.backbones import Card, FaceBackbone
from utils.models.checkpoints import Recogniser
from utils.retrieval.evaluation import evaluate
from utils.settings import CourseError
from utils.unlearning import registry

POOL_KEYS = {"r1", "r5", "map", "mean_cosine", "nearest_cosine"}


@pytest.fixture
def tiny_world(monkeypatch, tiny_faces, own_cache):
    """Let the benchmark open the tiny data set in place of the default one."""
    monkeypatch.setattr(plan_room, "load_faces", lambda *_, **__: tiny_faces)


def tiny_plan(**changes) -> Plan:
    options = (("dispersion", "steps", 2), ("gradient_ascent", "steps", 2))
    return Plan(
        **{"methods": ("dispersion",), "forget": 2, "train_epochs": 1, "options": options, "device": "cpu"} | changes
    )


def test_results_follow_the_schema(tiny_world, tmp_path):
    results = run_benchmark(tiny_plan(), tmp_path / "r.json", progress=False)
    assert results == json.loads((tmp_path / "r.json").read_text()) and results["schema"] == 2
    assert {"python", "torch", "device", "threads", "commit"} <= results["environment"].keys()
    assert [run["method"] for run in results["runs"]] == ["original", "retrain", "dispersion"]
    for row in results["runs"]:
        assert POOL_KEYS <= row["forget"].keys() and "lookalike_fmr" in row["forget"]
        assert POOL_KEYS <= row["retain"].keys() and POOL_KEYS <= row["unseen"].keys()
        assert {"r1", "map"} <= row["chance"].keys() and len(row["forget_ids"]) == row["n_forget"] == 2
        assert row["n_photos"] == 120 and row["dataset_name"] == "tiny" and row["data_hash"] == row["fingerprint"]
        assert row["n_queries"].keys() == {"forget", "retain", "unseen"} and row["n_queries"]["forget"] > 0
        assert row["git"] and row["asked"] is False
        assert row["peak_memory_mb"] > 0 and row["gallery_size"] > 0 and row["n_identities"] == 12
        assert all(0 <= row[pool]["r1"] <= 1 for pool in ("forget", "retain", "unseen"))
    assert results["runs"][2]["config"]["steps"] == 2
    assert [row["kind"] for row in results["runs"]] == ["reference", "reference", "weights"]


def test_an_interrupted_run_resumes_where_it_stopped(tiny_world, tmp_path, monkeypatch):
    out, real = tmp_path / "r.json", benchmark.unlearn
    calls = []

    def interrupted(name, *args, **kwargs):
        calls.append(name)
        if name == "dispersion" and len(calls) == 3:
            raise KeyboardInterrupt
        return real(name, *args, **kwargs)

    monkeypatch.setattr(benchmark, "unlearn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(tiny_plan(), out, progress=False)
    assert len(read_results(out)["runs"]) == 2
    run_benchmark(tiny_plan(), out, progress=False)
    assert calls == ["original", "retrain", "dispersion", "dispersion"]
    run_benchmark(tiny_plan(), out, progress=False)
    assert len(calls) == 4
    run_benchmark(tiny_plan(options=(("dispersion", "steps", 3),)), out, progress=False)
    assert calls[4:] == ["dispersion"] and len(read_results(out)["runs"]) == 4


def test_the_number_of_people_opened_can_be_limited(monkeypatch, tiny_faces, own_cache, tmp_path):
    asked = []
    monkeypatch.setattr(plan_room, "load_faces", lambda *_, **options: asked.append(options) or tiny_faces)
    for limit in (0, 9):
        run_benchmark(tiny_plan(methods=("original",), max_identities=limit), tmp_path / "r.json", progress=False)
    assert [options["max_identities"] for options in asked] == [None, 9]


def test_seeds_forget_different_people(tiny_world, tmp_path):
    results = run_benchmark(tiny_plan(methods=("original",), seeds=2), tmp_path / "r.json", progress=False)
    people = [run["forget_ids"] for run in results["runs"] if run["method"] == "original"]
    assert len(people) == 2 and people[0] != people[1]


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--dataset", "faces"], "synthetic"),
        (["--methods", "original,magic"], "dispersion"),
        (["--backbone", "vit"], "mini, facenet"),
        (["--profile", "slow"], "quick, full"),
        (["--seeds", "0"], "at least 1"),
        (["--set", "dispersion.stepz=3"], "steps"),
        (["--set", "nonsense"], "METHOD.KEY=VALUE"),
        (["--dataset", "folder"], "needs root"),
        (["--dataset", "lfw", "--root", "/no/such/folder"], "no/such/folder"),
        (["--device", "tpu"], "cpu, cuda"),
        (["--max-identities", "-1"], "must not be negative"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, told, refused):
    refused(main, arguments, told)


@pytest.mark.parametrize("text", ["", "{", '{"schema": 7}', "[]"])
def test_a_damaged_results_file_is_refused_not_overwritten(text, tmp_path, capsys):
    out = tmp_path / "r.json"
    out.write_text(text)
    assert main(["--table", "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err and out.read_text() == text


def test_the_table_shows_means_and_spread(tmp_path, capsys):
    pool = {"r1": 0.5, "map": 0.25}
    run = {
        "dataset": "d",
        "backbone": "mini",
        "n_forget": 1,
        "method": "dispersion",
        "seconds": 3,
        "images_processed": 9,
        "seed": 0,
        "retain": pool,
        "unseen": pool,
    }
    runs = [run | {"forget": pool}, run | {"seed": 1, "forget": {"r1": 0.7, "map": math.nan}}]
    text = results_table({"runs": runs}, markdown=True)
    assert "| 60.0 ± 10.0 |" in text and "| 50.0 ± 0.0 |" in text and "Dispersion, log-sum-exp" in text
    write_results(tmp_path / "r.json", {"schema": 1, "runs": runs})
    assert "NaN" not in (tmp_path / "r.json").read_text()
    assert main(["--table", "--out", str(tmp_path / "r.json")]) == 0
    assert "forget R@1" in capsys.readouterr().out


def test_option_values_are_read_as_json():
    assert parse_option("dispersion.beta=2.5") == ("dispersion", "beta", 2.5)
    assert parse_option("dispersion.batchnorm=train") == ("dispersion", "batchnorm", "train")
    with pytest.raises(CourseError, match="METHOD.KEY=VALUE"):
        parse_option("beta=2")


def test_percent_of_unknown_values_is_a_dash():
    assert percent([math.nan]) == percent([None]) == "–" and percent([0.123]) == "12.3"


def test_settings_are_chosen_on_the_dev_people(tiny_world, tmp_path):
    plans = [tiny_plan(methods=("original",), dev=dev) for dev in (False, True)]
    people = [run_benchmark(plan, tmp_path / "r.json", progress=False)["runs"][0]["forget_ids"] for plan in plans]
    assert not set(people[0]) & set(people[1])


def test_a_single_run_is_noted_where_the_benchmark_finds_it(tiny_world, tiny_faces, tmp_path, monkeypatch):
    plan, out = tiny_plan(methods=("dispersion",)), tmp_path / "r.json"
    splits = make_splits(tiny_faces, n_forget=2)
    recogniser = plan_room.original_recogniser(plan, splits, False)
    outcome, seen = benchmark.run_method(plan, splits, recogniser, "dispersion", out, progress=False)
    (row,) = read_results(out)["runs"]
    assert row["forget"]["accuracy"] == seen.name_accuracy("forget") and row["seconds"] == round(outcome.seconds, 2)
    monkeypatch.setattr(benchmark, "unlearn", lambda name, *a, **k: pytest.fail(name) if name == "dispersion" else None)
    monkeypatch.setattr(benchmark, "references", lambda plan: ())
    assert run_benchmark(plan, out, progress=False)["runs"] == [row]


def test_a_narrow_table_leaves_out_data_and_price(tiny_world, tmp_path):
    results = run_benchmark(tiny_plan(methods=("original",)), tmp_path / "r.json", progress=False)
    lines = results_table(results, narrow=True).splitlines()
    assert lines[0].startswith("method") and "seconds" not in lines[0]
    assert len(lines) == 4 and lines[-1].startswith("Forgotten (")


def test_fresh_runs_again_what_the_plan_names_and_leaves_the_rest(tiny_world, tmp_path):
    out, plans = tmp_path / "r.json", [tiny_plan(methods=("original",), forget=number) for number in (1, 2)]
    run_plans(plans, out, progress=False)
    run_plans(plans[:1], out, fresh=True, progress=False)
    assert sorted(run["n_forget"] for run in read_results(out)["runs"]) == [1, 1, 2, 2]


def test_several_sizes_run_in_one_go_and_say_who_is_found(tiny_world, tmp_path):
    plans = [tiny_plan(methods=("original",), forget=number) for number in (1, 2)]
    results = run_plans(plans, tmp_path / "r.json", progress=False)
    assert [(run["method"], run["n_forget"]) for run in results["runs"]] == [
        ("original", 1), ("retrain", 1), ("original", 2), ("retrain", 2),
    ]  # fmt: skip
    for run in results["runs"]:
        assert run["forget_people"].keys() == set(run["forget_ids"])
        assert run["forget"]["map"] == pytest.approx(sum(run["forget_people"].values()) / run["n_forget"], abs=0.35)
    assert [row[1] for row in results_table(results).rows[1:]] == ["1", "1", "2", "2"]


def test_side_by_side_gives_the_same_rows_and_names_what_failed(tmp_path, own_cache):
    plan = tiny_plan(options=(), forget=1, methods=("original", "esc"), max_identities=12)
    files = {jobs: tmp_path / f"{jobs}.json" for jobs in (1, 2)}
    alone, together = (run_plans([plan], out, jobs=jobs, progress=False) for jobs, out in files.items())
    scores = [{run["method"]: run["forget"]["map"] for run in results["runs"]} for results in (alone, together)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3) and len(scores[0]) == 3
    broken = replace(plan, options=(("esc", "directions", 127),))
    found = [run_plans([broken], out, jobs=jobs, progress=False)["runs"] for jobs, out in files.items()]
    for runs in found:
        (lost,) = (run for run in runs if "error" in run)
        assert lost["method"] == "esc" and "directions" in lost["error"] and len(lost["forget_ids"]) == 1


def test_sizes_that_are_no_numbers_are_refused(tmp_path, capsys):
    assert main(["--forget", "1,many", "--out", str(tmp_path / "r.json")]) == 2
    assert "1,5,10" in capsys.readouterr().err


def test_notebook_09_shows_the_named_file_else_a_finished_bench_else_the_courses_own(tmp_path):
    build, stored = tmp_path / "build", tmp_path / "stored"
    build.mkdir(), stored.mkdir()

    def write(path, *runs):
        rows = [{"method": m, "n_forget": n, "dataset": "x", "seed": 0} for m, n in runs]
        write_results(path, {"schema": results_room.SCHEMA, "runs": rows})

    write(stored / "synthetic_quick.json", ("esc", 10))
    write(stored / "synthetic_sizes.json", ("esc", 5))
    write(build / "results.json", ("original", 10), ("original", 5))
    own = [{"method": "esc", "n_forget": n, "dataset": "x", "seed": 0} for n in (10, 5)]
    assert benchmark.results_at_hand(build=build, stored=stored) == own, "a bench that is not done is not shown"
    assert len(benchmark.results_at_hand(str(build / "results.json"), build, stored)) == 2
    write(build / "results.json", *((name, n) for name in registry.METHODS for n in (5, 10)))
    assert len(benchmark.results_at_hand(build=build, stored=stored)) == 2 * len(registry.METHODS)
    with pytest.raises(CourseError, match="There are no results at"):
        benchmark.results_at_hand(str(tmp_path / "none.json"))


@pytest.mark.parametrize("seed", [-1, True, 1.5, None, "0"])
def test_a_plan_has_a_seed_or_is_refused(seed):
    assert json.dumps(Plan(seed=np.int64(3)).seed) == "3"
    with pytest.raises(CourseError, match="The seed is"):
        Plan(seed=seed)


def test_a_named_request_is_another_run_than_the_same_people_drawn(tiny_world, tmp_path):
    out, drawn = tmp_path / "r.json", tiny_plan(methods=("original",), forget=1)
    (name,) = run_benchmark(drawn, out, progress=False)["runs"][0]["forget_ids"]
    results = run_benchmark(dataclasses.replace(drawn, forget_ids=name, seeds=2), out, progress=False)
    assert [run["asked"] for run in results["runs"]] == [True] * 4 and len(results_table(results).rows) == 3
    assert results_table(results).splitlines()[-1].endswith(f"asked for by name: {name}.")


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_no_methods_at_all_is_one_sentence(text, capsys):
    assert main(["--methods", text, "--quiet"]) == 2
    assert "--methods names none" in capsys.readouterr().err


class Centred(FaceBackbone):
    """Means of the colours in sixteen fields, pushed to one side, and a centre that is taken off."""

    card = Card("centred", embedding_dim=48, input_size=4, crop_size=64, centred=True)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(48))
        self.register_buffer("centre", torch.full((48,), 5.0))

    def layers(self) -> dict:
        return {"embedding": [self]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * self.weight + 5 - self.centre


def test_a_centred_model_is_also_searched_without_its_centre(tiny_recogniser, tiny_splits):
    head = tiny_recogniser.head
    head = type(head)(48, len(tiny_splits.trained))
    start = Recogniser(Centred().eval(), head, "made by hand", 0.0)
    row = benchmark.one_run(Plan(device="cpu"), tiny_splits, start, "original", 0, False)[-1]
    plain = Centred().eval()
    plain.centre.zero_()
    wanted = evaluate(plain, tiny_splits, device="cpu").scores()
    assert row["uncentred"] == {
        f"{p}_{s}": wanted[p][s] for p in ("forget", "retain", "unseen") for s in ("r1", "map", "tar")
    }
    assert row["uncentred"]["forget_map"] != row["forget"]["map"]
    base = {"dataset": "d", "backbone": "b", "method": "original", "n_forget": 2, "seed": 0}
    table = results_table({"runs": [base | row, base | {"method": "esc", "forget": {"map": 0.5}}]})
    place = table.rows[0].index("forget mAP uncentred ↓")
    assert table.rows[1][place] == f"{100 * row['uncentred']['forget_map']:.1f}" and table.rows[2][place] == "–"
    assert (
        "uncentred" not in benchmark.one_run(Plan(device="cpu"), tiny_splits, tiny_recogniser, "original", 0, False)[-1]
    )
