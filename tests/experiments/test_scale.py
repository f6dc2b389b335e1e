"""The price list and the other tables of notebook 12 say what the stored measurements say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from utils.experiments import scale
from utils.models.checkpoints import TrainConfig

SPEEDS = [{"backbone": "facenet", "device": "cpu", "threads": 1, "batch": 64, "embed": 20.0, "train": 4.0}]


def test_a_price_is_photos_divided_by_photos_a_second():
    rows = {row[0]: row[1:] for row in scale.price_rows({"speeds": SPEEDS})}
    stored = json.loads(scale.RUNS.read_text())["runs"]
    esc = [run["images_processed"] for run in stored if run["method"] == "esc" and run["n_forget"] == 10]
    photos = sum(esc) / len(esc)
    assert rows["Erasing a subspace (ESC)"] == [f"{photos:,.0f}", f"{photos / 4 / 3600:,.2f}", "not run"]
    # 3,141,890 photos / 20 a second / 3,600 = 43.64 hours
    assert rows["then: the gallery embedded anew"] == ["3,141,890", "43.64", "not run"]
    again = TrainConfig().epochs * 3_141_890 * (8_631 - 10) / 8_631
    assert rows["Retrained without them"][0] == f"{again:,.0f}" and "Original model" not in rows


def test_a_gpu_that_was_measured_has_its_own_column():
    gpu = SPEEDS[0] | {"device": "cuda", "embed": 2000.0}
    rows = {row[0]: row[1:] for row in scale.price_rows({"speeds": [*SPEEDS, gpu]})}
    assert rows["then: the gallery embedded anew"][1:] == ["43.64", "0.44"]
    assert "not run" not in str(scale.speed_rows({"speeds": [gpu]})) and "not run" in str(scale.speed_rows({}))


def test_photos_a_second_are_measured_and_stored_beside_what_is_there(tmp_path, capsys):
    out = tmp_path / "scale.json"
    out.write_text(json.dumps({"schema": 1, "speeds": SPEEDS, "database": {"vectors": 3}}))
    assert scale.main(["--speed", "mini", "--photos", "4", "--batch", "2", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [row["backbone"] for row in found["speeds"]] == ["facenet", "mini"] and found["database"] == {"vectors": 3}
    assert min(found["speeds"][1]["embed"], found["speeds"][1]["train"]) > 0 and found["machine"]["cores"] >= 1


def test_a_gallery_is_measured_kind_by_kind(tmp_path):
    out = tmp_path / "scale.json"
    for kinds in ("exact", "IVF", "exact"):
        assert scale.main(["--gallery", "600", "--indexes", kinds, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["indexes"]
    assert [row["index"] for row in rows] == [*["IVF"] * 4, "exact"] and {row["vectors"] for row in rows} == {600}
    assert rows[-1]["recall@10"] == 1
    table = scale.index_rows(rows)
    assert table[-1][:6] == ["600", "exact", "", "100.0 %", "100.0 %", "100.0 %"]
    assert scale.main(["--gallery", "600", "--indexes", "flat", "--out", str(out)]) == 2


def test_the_spread_of_drawn_faces_is_that_of_the_embedded_model():
    from utils.faces import load_faces, make_splits
    from utils.models import embed, load_or_train
    from utils.retrieval import held_out_photos

    splits = make_splits(load_faces("synthetic", progress=False))
    photos = np.intersect1d(held_out_photos(splits), np.flatnonzero(~np.isin(splits.faces.labels, splits.forget)))
    rows, people = embed(load_or_train(splits).model, splits.faces, photos).numpy(), splits.faces.labels[photos]
    above, same = np.triu_indices(len(people), 1), people[:, None] == people
    cosines, same = (rows @ rows.T)[above], same[above]
    assert cosines[same].mean() == pytest.approx(scale.MEASURED.within, abs=0.05)
    assert cosines[~same].std() == pytest.approx(scale.MEASURED.between, abs=0.03)


def test_peers_are_compared_by_ratio(tmp_path):
    row = {"task": "mAP", "name": "peer", "course": {"seconds": 2.0, "peak_mb": 10.0}, "difference": 1e-9}
    path = tmp_path / "peers.json"
    path.write_text(json.dumps({"rows": [row | {"peer": {"seconds": 24.0, "peak_mb": 5.0}}, row]}))
    assert scale.peer_rows(path)[2] == ["mAP", "–", "2.00", "–", "–", "10", "–", "–", "–"]
    assert scale.peer_rows(path)[1] == ["mAP", "peer", "2.00", "24.00", "12.0 ×", "10", "5", "0.5 ×", "1e-09"]
