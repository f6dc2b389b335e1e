"""Drawn embeddings lie as asked, whatever their number; recall is counted as by hand; deleted vectors linger."""

from __future__ import annotations

import importlib.util

import faiss
import numpy as np
import pytest

from utils.retrieval import drawn, lingering
from utils.retrieval.drawn import PHOTOS, Spread, drawn_embeddings
from utils.retrieval.shards import top_k
from utils.settings import CourseError

DATABASE = pytest.mark.skipif(importlib.util.find_spec("lancedb") is None, reason="LanceDB is not installed")


def test_drawn_people_lie_as_far_apart_as_asked():
    rows, queries = drawn_embeddings(4000, Spread(0.7, 0.2), dim=256, n_queries=50)
    people = np.arange(4000) // PHOTOS
    cosines = rows @ rows.T
    same = (people[:, None] == people) & ~np.eye(4000, dtype=bool)
    assert cosines[same].mean() == pytest.approx(0.7, abs=0.01)
    # a centre's cosines have spread 0.2; a photo keeps sqrt(0.7) of its centre on either side, and noise adds 0.3-ish
    assert cosines[people[:, None] != people].std() == pytest.approx((0.2**2 * 0.7**2 + 0.51 / 256) ** 0.5, rel=0.05)
    assert (np.abs(np.linalg.norm(rows, axis=1) - 1) < 1e-5).all()
    own = [(queries[q] @ rows[people == q].T).mean() for q in range(50)]
    assert np.mean(own) == pytest.approx(0.7, abs=0.02)


def test_the_first_rows_do_not_depend_on_how_many_are_drawn():
    spread = Spread(0.8, 0.2)
    few, many = (drawn_embeddings(n, spread, dim=16, n_queries=9)[0] for n in (1210, 12_000))
    assert (few == many[:1210]).all()
    assert not (drawn_embeddings(1210, spread, dim=16, seed=1)[0] == few).any()


@pytest.mark.parametrize("spread", [(0.0, 0.2), (0.8, 1.0)])
def test_a_spread_that_is_no_cosine_is_refused(spread):
    with pytest.raises(CourseError, match="both are cosines between 0 and 1"):
        drawn_embeddings(100, Spread(*spread))


def test_recall_is_the_share_of_the_true_that_are_found():
    found, truth = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 3, 9], [5, 4, 8]])
    assert drawn.recall(found, truth, 1) == 0.5
    assert drawn.recall(found, truth, 3) == pytest.approx((2 / 3 + 2 / 3) / 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", drawn.INDEXES)
def test_an_index_gets_better_with_effort_and_its_numbers_are_its_own(kind):
    rows, queries = drawn_embeddings(6000, Spread(0.6, 0.2), dim=128, n_queries=40)
    truth = top_k(rows, queries, 10)[1]
    index, seconds = drawn.build_index(rows, kind)
    measured = drawn.measure_index(index, kind, queries, truth)
    assert [row["effort"] for row in measured] == [
        f"{drawn.EFFORTS[kind][0]} {effort}".strip() if effort else "" for effort in drawn.EFFORTS[kind][1]
    ]
    found = index.search(queries, 10)[1]  # at the last effort, which is still set
    assert measured[-1]["recall@1"] == np.mean(found[:, 0] == truth[:, 0])
    hits = [[t in f for t in ts] for f, ts in zip(found, truth, strict=True)]
    assert measured[-1]["recall@10"] == pytest.approx(np.mean(hits))
    assert measured[-1]["person@1"] == np.mean(found[:, 0] // PHOTOS == np.arange(40))
    assert measured[-1]["recall@10"] >= measured[0]["recall@10"]
    assert all(0 < row["median_ms"] <= row["p99_ms"] for row in measured) and seconds > 0
    if kind == "exact":
        assert measured[-1]["recall@10"] == 1 and drawn.index_megabytes(index) == pytest.approx(
            6000 * 512 / 2**20, 0.01
        )


# ---- what lingers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def rows() -> np.ndarray:
    return drawn_embeddings(400, Spread(0.8, 0.2), dim=32, n_queries=1)[0]


@pytest.mark.parametrize("spec", ["Flat", "HNSW16"])
def test_a_filtered_vector_is_never_found_and_still_in_the_file_until_the_index_is_rebuilt(spec, rows, tmp_path):
    index = faiss.IndexIDMap2(faiss.index_factory(32, spec, faiss.METRIC_INNER_PRODUCT))
    index.add_with_ids(rows, np.arange(400))
    lingering.write_index(index, tmp_path / "old.faiss")
    assert lingering.search_without(index, rows[:1], 3, [])[0, 0] == 0
    assert not np.isin(lingering.search_without(index, rows[:20], 10, range(20)), range(20)).any()
    assert lingering.files_with(tmp_path, rows[7]) == ["old.faiss"]
    again = faiss.read_index(str(tmp_path / "old.faiss"))
    assert (again.reconstruct(7) == rows[7]).all()
    new = lingering.rebuilt_without(again, spec, range(20))
    lingering.write_index(new, tmp_path / "old.faiss")
    assert lingering.files_with(tmp_path, rows[7]) == [] and lingering.files_with(tmp_path, rows[20]) == ["old.faiss"]
    assert new.ntotal == 380 and new.search(rows[20:40], 1)[1][:, 0].tolist() == list(range(20, 40))


@DATABASE
def test_the_database_finds_the_same_ids_and_keeps_what_it_deleted(rows, tmp_path):
    table = lingering.database_of(tmp_path, rows)
    assert (lingering.search_database(table, rows[:5], 7) == top_k(rows, rows[:5], 7)[1]).all()
    table.delete("id < 20")
    assert not (lingering.search_database(table, rows[:5], 7) < 20).any()
    assert len(lingering.files_with(tmp_path, rows[7])) == 1
    lingering.compact_database(table)
    assert len(lingering.files_with(tmp_path, rows[7])) == 1  # a few deleted rows are not worth its while
    new = lingering.rewrite_database(tmp_path, table)
    assert lingering.files_with(tmp_path, rows[7]) == [] and len(lingering.files_with(tmp_path, rows[30])) == 1
    assert new.count_rows() == 380


@pytest.mark.skipif(importlib.util.find_spec("lancedb") is not None, reason="LanceDB is installed")
def test_without_the_database_one_sentence_says_how_to_get_it(tmp_path):
    with pytest.raises(CourseError, match="pip install lancedb"):
        lingering.open_database(tmp_path)
