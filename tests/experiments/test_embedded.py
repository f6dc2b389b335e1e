"""The models that the course ships: whom each is trained on, and what its manifest says."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from utils.experiments import embedded
from utils.experiments.benchmark import read_results, run_recipe, shipped_outcome
from utils.experiments.plan import STORED, Plan
from utils.faces.splits import make_splits
from utils.lessons.session import Session
from utils.models.checkpoints import EMBEDDED, TrainConfig, recipe_key, recipe_of
from utils.retrieval.evaluation import evaluate
from utils.unlearning.loop import Unlearned
from utils.unlearning.registry import RECOMMENDED


@pytest.fixture
def written(tiny_splits, tmp_path, monkeypatch) -> dict:
    """What is trained on whom when the command runs on the tiny world, into a folder of the test."""
    trained, seeds, scores = [], [], {pool: {"r1": 0.5, "map": 0.25} for pool in ("forget", "retain", "unseen")}
    made = SimpleNamespace(model="model", seconds=3.0)
    monkeypatch.setattr(embedded, "MODEL_DIR", tmp_path)
    monkeypatch.setattr(embedded, "open_splits", lambda plan, seed, *_: seeds.append(seed) or tiny_splits)
    monkeypatch.setattr(embedded, "train_from_scratch", lambda splits, people, *_: trained.append(people) or made)
    monkeypatch.setattr(embedded, "save_recogniser", lambda path, recogniser, recipe: path.write_bytes(b"weights"))
    monkeypatch.setattr(embedded, "evaluate", lambda *_, **__: SimpleNamespace(scores=lambda: scores))
    monkeypatch.setattr(embedded, "embedded_models", lambda: {})
    return {"trained": trained, "scores": scores, "seeds": seeds}


@pytest.mark.parametrize(("which", "seed"), [("original", 0), ("retrain", 0), ("retrain1", 1), ("retrain2", 2)])
def test_an_embedded_model_is_trained_on_the_people_that_its_manifest_names(
    which, seed, tiny_splits, tmp_path, written
):
    entry = embedded.train_embedded(which, progress=False)
    gone = set() if which == "original" else set(tiny_splits.forget)
    people = tuple(sorted({*tiny_splits.forget, *tiny_splits.dev_forget, *tiny_splits.retain} - gone))
    assert (written["trained"], written["seeds"]) == ([people], [seed])
    recipe = recipe_of(tiny_splits, people, "mini", "none", TrainConfig())
    assert entry["recipe"] == recipe and entry["scores"] == written["scores"] and entry["file"] == EMBEDDED[which]
    assert json.loads((tmp_path / embedded.MANIFEST).read_text()) == {recipe_key(recipe): entry}


def test_the_recommended_model_is_the_original_after_the_recommended_method(
    tiny_splits, tiny_recogniser, written, monkeypatch
):
    asked, end = [], Unlearned("model", "cleared", seconds=7.0, images_processed=328, trained_head="as it was left")
    monkeypatch.setattr(embedded, "original_recogniser", lambda plan, splits, progress: tiny_recogniser)
    monkeypatch.setattr(
        embedded, "unlearned", lambda plan, splits, start, name, seed, _: asked.append((start, name, seed)) or end
    )
    kept = []
    monkeypatch.setattr(embedded, "save_recogniser", lambda path, made, _: kept.append(made) or path.write_bytes(b"w"))
    entry = embedded.train_embedded("recommended", progress=False)
    assert asked == [(tiny_recogniser, RECOMMENDED, 0)] and written["trained"] == []
    assert (kept[0].model, kept[0].head, kept[0].seconds, entry["images_processed"]) == (
        "model",
        "as it was left",
        7.0,
        328,
    )
    assert entry["recipe"] == run_recipe(Plan(), tiny_splits, RECOMMENDED)


def test_the_shipped_outcome_makes_the_stored_row_and_ships_no_portrait(default_splits):
    plan = Plan(device="cpu")
    known = shipped_outcome(plan, default_splits, RECOMMENDED)
    stored = next(
        run
        for run in read_results(STORED / "synthetic_quick.json")["runs"]
        if (run["method"], run["seed"]) == (RECOMMENDED, 0)
    )
    assert (known.images_processed, known.config) == (stored["images_processed"], stored["config"])
    scores = evaluate(known.model, default_splits, known.trained_head, device="cpu").scores()
    for pool in ("forget", "retain", "unseen"):
        assert scores[pool] == pytest.approx({key: stored[pool][key] for key in scores[pool]}, abs=0.005), pool
    theirs = default_splits.class_of(default_splits.forget)
    cleared, left = known.head.weight[theirs], known.trained_head.weight[theirs]
    assert not torch.allclose(cleared, left) and (known.head.weight[theirs] == cleared[0]).all()


def test_nothing_else_is_taken_for_the_shipped_outcome(default_splits):
    for plan in (
        Plan(profile="full"),
        Plan(train_epochs=5),
        Plan(options=((RECOMMENDED, "steps", 99),)),
        Plan(dev=True),
        Plan(seed=1),
    ):
        assert shipped_outcome(plan, default_splits, RECOMMENDED) is None
    assert shipped_outcome(Plan(), make_splits(default_splits.faces, n_forget=10, seed=1), RECOMMENDED) is None
    assert shipped_outcome(Plan(), default_splits, "dispersion") is None


def test_a_session_loads_what_is_shipped_and_trains_what_is_changed(default_splits, tmp_path, capsys):
    before = SimpleNamespace()
    plan = Plan(device="cpu")
    session = Session(
        plan, default_splits, embedded.original_recogniser(plan, default_splits, False), before, tmp_path / "r.json"
    )
    trial = session.forget(RECOMMENDED)
    assert "ships this model" in capsys.readouterr().out and trial.outcome.history == []
    assert [run["images_processed"] for run in read_results(session.results)["runs"]] == [
        trial.outcome.images_processed
    ]
    changed = session.forget(RECOMMENDED, steps=1)
    assert len(changed.outcome.history) == 1 and "ships" not in capsys.readouterr().out
