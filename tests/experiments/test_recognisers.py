"""Two recognisers side by side: shares of pairs against plain loops, and what is stored where they are absent."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.experiments import recognisers as room
from utils.lessons import recogniser_for


def test_shares_of_pairs_are_those_of_plain_loops():
    points = F.normalize(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    found = {"same": [0] * 60, "other": [0] * 60}
    values = {"same": [], "other": []}
    hits = 0
    for i in range(12):
        cosines = [float(points[i] @ points[j]) for j in range(12)]
        hits += labels[max((j for j in range(12) if j != i), key=lambda j: cosines[j])] == labels[i]
        for j in range(i):
            kind = "same" if labels[i] == labels[j] else "other"
            values[kind].append(cosines[j])
            place = sum(edge <= max(cosines[j], -0.5) for edge in room.BINS) - 1
            found[kind][place] += 1
    shares = room.cosine_shares(points, labels)
    for kind, counts in found.items():
        assert shares[kind] == [round(count / sum(counts), 6) for count in counts]
        assert shares[f"{kind}_pairs"] == sum(counts) == {"same": 12, "other": 54}[kind]
        assert shares[f"{kind}_mean"] == pytest.approx(np.mean(values[kind]), abs=1e-4)
    assert shares["r1"] == round(hits / 12, 4)


def test_without_the_weights_the_stored_numbers_speak_and_hold_no_photo(monkeypatch, capsys):
    monkeypatch.setattr(room, "dlib_at_hand", lambda: False)
    stored = json.loads(room.RECOGNISERS.read_text(encoding="utf-8"))
    assert room.two_recognisers("lfw", "somewhere") == stored
    assert stored.keys() == {"dataset", "photos", "people", "bins", "models"}
    for side in stored["models"].values():
        assert len(side["same"]) == len(side["other"]) == len(stored["bins"]) - 1
        assert sum(side["same"]) == pytest.approx(1, abs=1e-4) and sum(side["other"]) == pytest.approx(1, abs=1e-4)
    assert room.main(["--root", "x"]) == 2 and "dlib's weights are not here yet" in capsys.readouterr().err
    assert room.main(["--dataset", "synthetic"]) == 2 and "on real faces" in capsys.readouterr().err


def test_both_are_measured_on_the_unseen_people_where_they_are_there(tiny_splits, tiny_recogniser):
    sides = room.measured(tiny_splits, {"mini": tiny_recogniser.model})
    assert (sides["photos"], sides["people"]) == (24, 4)
    assert sides["models"]["mini"]["same_pairs"] == 4 * 15 and sides["models"]["mini"]["other_pairs"] == 6 * 36


@pytest.mark.parametrize(
    ("asked", "album", "dataset", "at_hand", "wanted"),
    [
        ("auto", "mine", "synthetic", True, "dlib"),
        ("auto", "", "lfw", True, "dlib"),
        ("auto", "", "synthetic", True, "mini"),
        ("auto", "mine", "synthetic", False, "mini"),
        ("facenet", "mine", "lfw", True, "facenet"),
    ],
)
def test_your_own_photos_are_searched_with_a_real_recogniser_where_there_is_one(
    asked, album, dataset, at_hand, wanted, monkeypatch
):
    monkeypatch.setattr("utils.lessons.own_photos.dlib_at_hand", lambda: at_hand)
    assert recogniser_for(asked, album, dataset) == wanted


def test_the_degrees_of_any_backbone_are_printed_and_a_wrong_one_is_one_sentence(capsys):
    assert room.main(["--degrees", "mini"]) == 0
    assert capsys.readouterr().out.startswith("mini, none: ")
    assert room.main(["--degrees", "minni"]) == 2 and "mini" in capsys.readouterr().err
