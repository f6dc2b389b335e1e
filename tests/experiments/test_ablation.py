"""The ablation: what it holds, the learning rate it shows, resuming; and the committed file is today's."""

from __future__ import annotations

import pytest

from utils.experiments import ablation
from utils.experiments.ablation import (
    ABLATION_FILE,
    VARIANTS,
    Variant,
    ablation_lines,
    ablation_table,
    main,
    read_ablation,
)
from utils.settings import CourseError
from utils.unlearning.dispersion import DISPERSIONS
from utils.unlearning.registry import METHODS, make_config


def row(variant: Variant, seed: int = 0, forget: float = 0.5, unseen: float = 0.8) -> dict:
    pools = {"forget": forget, "retain": 0.95, "unseen": unseen}
    return ablation.key_of(variant, seed) | {pool: {"r1": score, "map": score} for pool, score in pools.items()}


START = Variant("the loss", "original model", "original", {})
SLOW = Variant("the loss", "uniform", "dispersion", {"kind": "uniform", "learning_rate": 1e-3})
FAST = Variant("the loss", "uniform", "dispersion", {"kind": "uniform", "learning_rate": 5e-3})


def test_every_variant_is_a_setting_that_its_method_knows():
    for variant in VARIANTS:
        make_config(variant.method, variant.options)
    assert {v.options["kind"] for v in VARIANTS if "kind" in v.options} == set(DISPERSIONS)
    assert len({(v.label, v.method, str(v.options)) for v in VARIANTS}) == len(VARIANTS)
    assert {"dispersion_blends", "gather_scatter"} <= {v.method for v in VARIANTS} <= set(METHODS)


def test_a_loss_is_shown_with_the_learning_rate_that_the_rule_chooses_over_all_seeds():
    start = [row(START, seed, forget=1.0) for seed in (0, 1)]
    trials = [*start, row(SLOW, 0, 0.3), row(SLOW, 1, 0.1), row(FAST, 0, 0.2), row(FAST, 1, 0.4)]
    lines = {label: mine for _, label, mine in ablation_lines(trials)}
    assert [trial["options"]["learning_rate"] for trial in lines["uniform"]] == [1e-3, 1e-3]
    table = ablation_table(trials)
    assert "20.0 ± 10.0" in table and "| uniform |" in ablation_table(trials, markdown=True)
    dear = [*start, row(SLOW, 0, 0.3), row(FAST, 0, 0.2, unseen=0.5)]  # forgets more and costs too much
    assert ablation_lines(dear)[1][2][0]["options"]["learning_rate"] == 1e-3
    lost = [ablation.key_of(FAST, 1) | {"error": "The run diverged at step 3."}]
    half = [*start, row(SLOW, 0, 0.3), row(SLOW, 1, 0.3), row(FAST, 0, 0.0), *lost]
    assert ablation_lines(half)[1][2][0]["options"]["learning_rate"] == 1e-3


def test_a_variant_that_diverged_has_a_row_of_dashes():
    lost = [ablation.key_of(SLOW, seed) | {"error": "The run diverged at step 3."} for seed in (0, 1)]
    table = ablation_table([row(START), *lost]).splitlines()
    assert "uniform" in table[2] and table[2].count("–") == 6 and table[2].endswith("diverged")
    assert sum("The run diverged at step 3." in line for line in table) == 2
    half = ablation_table([row(START), lost[0], row(SLOW, 1, 0.3)]).splitlines()
    assert "30.0" in half[2] and half[2].endswith("diverged: seed 0")
    with pytest.raises(CourseError, match="original model"):
        ablation_table(lost)


def test_what_is_at_hand_is_not_repeated(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(ablation, "about_variant", lambda *_: {"forget_ids": ["Eero"]})
    monkeypatch.setattr(ablation, "run_variant", lambda variant, seed, world: ran.append(seed) or row(variant, seed))
    monkeypatch.setattr(ablation, "dev_world", lambda *_: None)
    out = tmp_path / "build" / "ablation.json"
    options = {"variants": (START, SLOW), "progress": False}
    assert len(ablation.run_ablation(out, seeds=(0,), **options)) == 2 and ran == [0, 0]
    again = ablation.run_ablation(out, seeds=(0, 1), **options)
    assert ran == [0, 0, 1, 1] and [(trial["label"], trial["seed"]) for trial in again] == [
        ("original model", 0), ("original model", 1), ("uniform", 0), ("uniform", 1),
    ]  # fmt: skip
    ablation.run_ablation(out, seeds=(0,), variants=(START,), fresh=True, progress=False)
    assert ran == [0, 0, 1, 1, 0] and len(read_ablation(out)) == 4  # the others' rows stay


def test_a_broken_file_is_one_sentence(tmp_path, capsys):
    with pytest.raises(CourseError, match="There are no results at"):
        read_ablation(tmp_path / "none.json")
    for text in ("{", "{}", '{"schema": 1}'):
        (tmp_path / "bad.json").write_text(text)
        assert main(["--table", "--out", str(tmp_path / "bad.json")]) == 2
        assert "move it away" in capsys.readouterr().err


def test_the_committed_ablation_has_every_variant_of_today():
    trials = read_ablation(ABLATION_FILE)
    for variant in VARIANTS:
        for seed in ablation.SEEDS:
            mine = [trial for trial in trials if variant._asdict().items() <= trial.items() and trial["seed"] == seed]
            assert len(mine) == 1 and "error" not in mine[0], variant
