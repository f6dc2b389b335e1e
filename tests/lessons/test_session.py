"""The session of notebooks 05 to 11: one request, many methods, the same pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from notebook_numbers import Seen, panel_says

from utils.experiments.benchmark import read_results
from utils.experiments.plan import Plan
from utils.lessons.session import Session, Trial, open_session, remind_of_drawn_faces
from utils.models.checkpoints import TrainConfig
from utils.retrieval.evaluation import evaluate
from utils.settings import CourseError
from utils.unlearning.loop import unlearn


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
    assert not np.allclose(session.stayed(trial.after), 1)


def test_turning_the_head_alone_moves_no_photo(session):
    trial = session.forget("gradient_ascent", steps=15, learning_rate=0.1, trainable="head", check_every=0)
    assert torch.equal(trial.after.embeddings, session.before.embeddings)
    assert np.allclose(session.stayed(trial.after, "retain"), 1, atol=1e-5)
    before, after = session.bars(session.before), session.bars(trial.after)
    assert after.pop("forget accuracy") < before.pop("forget accuracy") and after == before


def test_the_old_gallery_is_the_original_models(session):
    same = session.forget("original")
    assert session.old_gallery(same.after).r1 == session.before.retrieval("forget").r1
    turned = same.after._replace(embeddings=-same.after.embeddings)
    assert turned.retrieval("retain").r1 == session.before.retrieval("retain").r1  # among themselves all is well
    assert session.old_gallery(turned, "retain").map < session.before.retrieval("retain").map


def test_the_panel_shows_the_forget_person_with_the_most_photos(session):
    person = session.example()
    photos = {label: len(session.before.photos_of(label)) for label in session.splits.forget}
    assert photos[person] == max(photos.values())
    trial = session.forget("original")
    figure = session.panel(trial.after, trial.title)
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert isinstance(figure, Figure) and "Original model: held-out photos" in texts


@pytest.fixture
def turned(session) -> Trial:
    """A trial whose model sees photos in other places, forget people's most of all."""
    same = session.forget("original")
    noise = torch.randn(same.after.embeddings.shape, generator=torch.Generator().manual_seed(0))
    share = torch.full((len(noise), 1), 1.5)
    share[same.after.place[same.after.held_out("forget")]] = 2.5
    rows = torch.nn.functional.normalize(same.after.embeddings + share * torch.nn.functional.normalize(noise))
    return Trial("turned", "Turned", same.outcome, same.after._replace(embeddings=rows))


@pytest.mark.parametrize("pool", ["forget", "retain", "unseen"])
def test_scores_of_a_trial_against_plain_loops(session, turned, pool):
    before, after = Seen.of(session.before), Seen.of(turned.after)
    old, found = session.old_gallery(turned.after, pool), after.found(pool, before)
    assert (old.r1, old.map) == pytest.approx((found["r1"], found["map"]), abs=1e-6)
    assert found["map"] != pytest.approx(after.found(pool)["map"], abs=1e-3)
    cosines = [before.at[photo] @ after.at[photo] for photo in before.held_out(pool)]
    np.testing.assert_allclose(session.stayed(turned.after, pool), cosines, atol=1e-5)
    assert session.bars(turned.after) == pytest.approx(after.bars(turned.after.head), abs=1e-6)


def test_a_panel_draws_the_model_before_and_after(session, turned):
    panel_says(session.panel(turned.after, "Turned"), session, turned.after)


def test_a_trial_takes_the_sessions_seed(session):
    other = Session(
        replace(session.plan, seed=1), *(getattr(session, k) for k in ("splits", "recogniser", "before", "results"))
    )
    first, second = (s.forget("random_labels", steps=1).after.embeddings for s in (session, other))
    model, head = session.recogniser.model, session.recogniser.head
    again = unlearn("random_labels", model, head, session.splits, seed=1, device="cpu", progress=False, steps=1)
    assert torch.equal(second, evaluate(again.model, session.splits, device="cpu").embeddings)
    assert not torch.equal(first, second)


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


def test_only_other_faces_or_another_model_are_reason_to_mistrust_the_text(capsys):
    remind_of_drawn_faces("synthetic", "mini")
    assert capsys.readouterr().out == ""
    for chosen in (("lfw", "mini"), ("synthetic", "dlib")):
        remind_of_drawn_faces(*chosen)
        told = capsys.readouterr().out
        assert all(f"'{name}'" in told for name in chosen) and "drawn faces" in told


def test_a_model_trained_elsewhere_is_retrained_in_its_head_alone(session, monkeypatch, capsys):
    monkeypatch.setattr("utils.lessons.session.references", lambda plan: ("original",))
    trial = session.forget("retrain")
    kept, people = session.splits.retain_train, session.splits.trained
    rows = [people.index(person) for person in kept]
    assert torch.equal(trial.outcome.head.weight, session.recogniser.head.weight[rows])
    assert torch.equal(trial.after.embeddings, session.before.embeddings) and not session.results.exists()
    assert trial.after.name_accuracy("forget") == 0 and "trained elsewhere" in capsys.readouterr().out
    assert len(session.recogniser.head.weight) == len(people)
