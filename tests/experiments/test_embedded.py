"""The models that the course ships: whom each is trained on, and what its manifest says."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from utils.experiments import embedded
from utils.models.checkpoints import EMBEDDED, TrainConfig, recipe_key, recipe_of


@pytest.mark.parametrize("which", EMBEDDED)
def test_an_embedded_model_is_trained_on_the_people_that_its_manifest_names(which, tiny_splits, tmp_path, monkeypatch):
    trained, scores = [], {pool: {"r1": 0.5, "map": 0.25} for pool in ("forget", "retain", "unseen")}
    made = SimpleNamespace(model="model", seconds=3.0)
    monkeypatch.setattr(embedded, "MODEL_DIR", tmp_path)
    monkeypatch.setattr(embedded, "load_faces", lambda *_, **__: tiny_splits.faces)
    monkeypatch.setattr(embedded, "make_splits", lambda faces: tiny_splits)
    monkeypatch.setattr(embedded, "train_from_scratch", lambda splits, people, *_: trained.append(people) or made)
    monkeypatch.setattr(embedded, "save_recogniser", lambda path, recogniser, recipe: path.write_bytes(b"weights"))
    monkeypatch.setattr(embedded, "evaluate", lambda *_, **__: SimpleNamespace(scores=lambda: scores))
    monkeypatch.setattr(embedded, "embedded_models", lambda: {})
    entry = embedded.train_embedded(which, progress=False)
    gone = set(tiny_splits.forget) if which == "retrain" else set()
    people = tuple(sorted({*tiny_splits.forget, *tiny_splits.dev_forget, *tiny_splits.retain} - gone))
    assert trained == [people]
    recipe = recipe_of(tiny_splits, people, "mini", "none", TrainConfig())
    assert entry["recipe"] == recipe and entry["scores"] == scores and entry["file"] == EMBEDDED[which]
    assert json.loads((tmp_path / embedded.MANIFEST).read_text()) == {recipe_key(recipe): entry}
