"""The session of notebooks 05 to 07: one request, many methods, the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from utils.experiments.benchmark import read_results
from utils.experiments.plan import Plan
from utils.lessons.session import Session, Trial, open_session
from utils.models.checkpoints import TrainConfig
from utils.retrieval.evaluation import evaluate
from utils.settings import CourseError


@pytest.fixture
def session(tiny_recogniser, tiny_splits, tmp_path) -> Session:
    """A session on the tiny world that notes its results in a folder of the test."""
    before = evaluate(tiny_recogniser.model, tiny_splits, tiny_recogniser.head, device="cpu")
    plan = Plan(forget=2, train_epochs=1, device="cpu")
    return Session(plan, tiny_splits, tiny_recogniser, before, tmp_path / "results.json")


def test_a_run_with_the_profiles_settings_is_noted_and_a_trial_is_not(session):
    session.forget("gradient_ascent", steps=1)
    assert not session.results.exists()
    session.forget("original")
    assert [run["method"] for run in read_results(session.results)["runs"]] == ["original"]


def test_the_original_models_weights_are_left_alone(session):
    weights = [p.detach().clone() for p in (*session.recogniser.model.parameters(), session.recogniser.head.weight)]
    trial = session.forget("gradient_ascent", steps=2, trainable="both", check_every=0)
    assert trial.name == "gradient_ascent" and trial.title == "Gradient ascent"
    after = (*session.recogniser.model.parameters(), session.recogniser.head.weight)
    assert all(torch.equal(old, new) for old, new in zip(weights, after, strict=True))
    assert not np.allclose(session.stayed(trial), 1)


def test_turning_the_head_alone_moves_no_photo(session):
    trial = session.forget("gradient_ascent", steps=15, learning_rate=0.1, trainable="head", check_every=0)
    assert torch.equal(trial.after.embeddings, session.before.embeddings)
    assert np.allclose(session.stayed(trial, "retain"), 1, atol=1e-5)
    before, after = session.bars(session.before), session.bars(trial.after)
    assert after.pop("forget accuracy") < before.pop("forget accuracy") and after == before


def test_the_old_gallery_is_the_original_models(session):
    same = session.forget("original")
    assert session.old_gallery(same).r1 == session.before.retrieval("forget").r1
    turned = same.after._replace(embeddings=-same.after.embeddings)
    trial = Trial("turned", "Turned", same.outcome, turned)
    assert turned.retrieval("retain").r1 == session.before.retrieval("retain").r1  # among themselves all is well
    assert session.old_gallery(trial, "retain").map < session.before.retrieval("retain").map


def test_the_panel_shows_the_forget_person_with_the_most_photos(session):
    person = session.example()
    photos = {label: len(session.before.photos_of(label)) for label in session.splits.forget}
    assert photos[person] == max(photos.values())
    figure = session.panel(session.forget("original"))
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert isinstance(figure, Figure) and "Original model: held-out photos" in texts


def test_the_table_runs_what_is_missing(session, monkeypatch, tiny_faces, own_cache):
    monkeypatch.setattr("utils.experiments.plan.load_faces", lambda *_, **__: tiny_faces)
    lines = session.table("original").splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["Original model", "Retrained without them"]


def test_a_bench_opens_like_the_benchmark_and_refuses_like_it(monkeypatch, tiny_faces, own_cache, tmp_path):
    monkeypatch.setattr("utils.experiments.plan.load_faces", lambda *_, **__: tiny_faces)
    monkeypatch.setattr("utils.experiments.plan.train_config", lambda plan: TrainConfig(epochs=1))
    session = open_session(n_forget=2, seed=3, device="cpu", results=tmp_path / "r.json")
    assert len(session.splits.forget) == 2 and session.plan.seed == 3 and session.faces is tiny_faces
    assert len(session.before.embeddings) == len(np.unique([*session.splits.query, *session.splits.gallery]))
    with pytest.raises(CourseError, match="Unknown data set"):
        open_session("facez", device="cpu")
    with pytest.raises(CourseError, match="Unknown method"):
        session.forget("magic")
