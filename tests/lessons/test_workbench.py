"""The workbench of notebooks 05 to 07: one request, many methods, the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from utils.experiments.benchmark import read_results
from utils.experiments.plan import Plan
from utils.lessons import session as workbench
from utils.lessons.session import Workbench, open_workbench
from utils.models.checkpoints import TrainConfig
from utils.retrieval.evaluation import examine
from utils.settings import CourseError


@pytest.fixture
def bench(tiny_recogniser, tiny_splits, tmp_path) -> Workbench:
    """A workbench on the tiny world that notes its results in a folder of the test."""
    before = examine(tiny_recogniser.model, tiny_splits, tiny_recogniser.head, device="cpu")
    plan = Plan(forget=2, train_epochs=1, device="cpu")
    return Workbench(plan, tiny_splits, tiny_recogniser, before, tmp_path / "results.json")


def test_a_run_with_the_profiles_settings_is_noted_and_a_trial_is_not(bench):
    bench.forget("gradient_ascent", steps=1)
    assert not bench.results.exists()
    bench.forget("original")
    assert [run["method"] for run in read_results(bench.results)["runs"]] == ["original"]


def test_the_original_models_weights_are_left_alone(bench):
    weights = [p.detach().clone() for p in (*bench.recogniser.model.parameters(), bench.recogniser.head.weight)]
    trial = bench.forget("gradient_ascent", steps=2, moves="both", check_every=0)
    assert trial.name == "gradient_ascent" and trial.title == "Gradient ascent"
    after = (*bench.recogniser.model.parameters(), bench.recogniser.head.weight)
    assert all(torch.equal(old, new) for old, new in zip(weights, after, strict=True))
    assert not np.allclose(bench.stayed(trial), 1)


def test_turning_the_head_alone_moves_no_photo(bench):
    trial = bench.forget("gradient_ascent", steps=15, learning_rate=0.1, moves="head", check_every=0)
    assert torch.equal(trial.after.embeddings, bench.before.embeddings)
    assert np.allclose(bench.stayed(trial, "retain"), 1, atol=1e-5)
    before, after = bench.bars(bench.before), bench.bars(trial.after)
    assert after.pop("forget named") < before.pop("forget named") and after == before


def test_the_old_gallery_is_the_original_models(bench):
    same = bench.forget("original")
    assert bench.old_gallery(same).r1 == bench.before.retrieval("forget").r1
    turned = same.after._replace(embeddings=-same.after.embeddings)
    trial = workbench.Trial("turned", "Turned", same.outcome, turned)
    assert turned.retrieval("retain").r1 == bench.before.retrieval("retain").r1  # among themselves all is well
    assert bench.old_gallery(trial, "retain").map < bench.before.retrieval("retain").map


def test_the_panel_shows_the_forget_person_with_the_most_photos(bench):
    person = bench.example()
    photos = {label: len(bench.before.photos_of(label)) for label in bench.splits.forget}
    assert photos[person] == max(photos.values())
    figure = bench.panel(bench.forget("original"))
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert isinstance(figure, Figure) and "Original model: held-out photos" in texts


def test_the_table_runs_what_is_missing(bench, monkeypatch, tiny_faces, own_cache):
    monkeypatch.setattr("utils.faces.datasets.load_faces", lambda *_, **__: tiny_faces)
    lines = bench.table("original").splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["Original model", "Retrained without them"]


def test_a_bench_opens_like_the_benchmark_and_refuses_like_it(monkeypatch, tiny_faces, own_cache, tmp_path):
    monkeypatch.setattr(workbench, "load_faces", lambda *_, **__: tiny_faces)
    monkeypatch.setattr("utils.experiments.plan.train_config", lambda plan: TrainConfig(epochs=1))
    bench = open_workbench(n_forget=2, seed=3, device="cpu", results=tmp_path / "r.json")
    assert len(bench.splits.forget) == 2 and bench.plan.seed == 3 and bench.faces is tiny_faces
    assert len(bench.before.embeddings) == len(np.unique([*bench.splits.query, *bench.splits.gallery]))
    with pytest.raises(CourseError, match="Unknown data set"):
        open_workbench("facez", device="cpu")
    with pytest.raises(CourseError, match="Unknown method"):
        bench.forget("magic")
