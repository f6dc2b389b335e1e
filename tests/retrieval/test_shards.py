"""A gallery in shards finds what one flat index finds, ties and kills and damaged files included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from utils.retrieval import shards
from utils.retrieval.shards import checksum, read_manifest, search_shards, top_k, write_shards
from utils.settings import REPO_ROOT, CourseError


def unit_rows(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def rows() -> np.ndarray:
    """Rows of which many are equal: 3 photos stored 30 times each, across all shards, and one more pair."""
    rows = unit_rows(200, 24)
    for copy, place in enumerate(range(5, 185, 2)):
        rows[place] = rows[190 + copy % 3]
    rows[0] = rows[199]
    return rows


def written(folder: Path, rows: np.ndarray, n_shards: int, source: str = "test") -> dict:
    return write_shards(folder, lambda first, last: rows[first:last], len(rows), n_shards, source, rows.shape[1])


def by_hand(rows: np.ndarray, queries: np.ndarray, k: int) -> list[list[int]]:
    """Row numbers by falling cosine, summed one product at a time, ties by the lower number."""
    cosines = [[sum(float(a) * float(b) for a, b in zip(q, row, strict=True)) for row in rows] for q in queries]
    return [sorted(range(len(rows)), key=lambda i, line=line: (-line[i], i))[:k] for line in cosines]


@pytest.mark.parametrize("k", [1, 7, 40, 200])
def test_shards_find_what_one_flat_index_finds_ties_included(rows, k, tmp_path):
    queries = np.concatenate([rows[[190, 191, 199]], unit_rows(3, 24, seed=1)])
    manifest = written(tmp_path, rows, 7)
    stored = np.concatenate([np.load(tmp_path / entry["file"]) for entry in manifest["shards"]])
    cosines, ids = search_shards(tmp_path, queries, k, jobs=1)
    flat_cosines, flat = top_k(stored, queries, k)
    assert (stored == rows).all() and (ids == flat).all() and (cosines == flat_cosines).all()
    expected = by_hand(stored, queries, k)
    assert ids.tolist() == expected
    if k == 7:
        assert ids[0].tolist() == [i for i in range(200) if (stored[i] == stored[190]).all()][:7]


def test_each_shard_is_searched_in_a_process_of_its_own(rows, tmp_path):
    written(tmp_path, rows, 3)
    _, ids = search_shards(tmp_path, rows[:4], 5)
    assert ids.tolist() == by_hand(rows, rows[:4], 5)


def test_a_killed_writer_goes_on_where_it_was_and_ends_with_the_same_checksum(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        sys.path[:0] = ["TESTS"]
        from test_shards import unit_rows
        from utils.retrieval.shards import write_shards
        def embed(first, last):
            if first >= 60:
                os.kill(os.getpid(), signal.SIGKILL)
            return unit_rows(100, 8)[first:last]
        write_shards(Path(sys.argv[1]), embed, 100, 5, "model A", 8)
    """
    code = textwrap.dedent(code).replace("TESTS", str(Path(__file__).parent))
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], cwd=REPO_ROOT, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(CourseError, match="3 of 5 shards"):
        read_manifest(tmp_path / "a")
    rows, asked = unit_rows(100, 8), []

    def embed(first: int, last: int) -> np.ndarray:
        asked.append(first)
        return rows[first:last]

    resumed = write_shards(tmp_path / "a", embed, 100, 5, "model A", 8)
    assert asked == [60, 80]
    assert checksum(resumed) == checksum(written(tmp_path / "b", rows, 5))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "manifest.json", *(f"shard_{number:04}.npy" for number in range(5))
    ]  # fmt: skip


@pytest.mark.parametrize("change", [{"source": "model B"}, {"n_shards": 4}])
def test_shards_of_another_model_or_size_are_not_taken_over(change, tmp_path):
    old, new = unit_rows(40, 8), unit_rows(40, 8, seed=1)
    written(tmp_path, old, 5, "model A")
    manifest = written(tmp_path, new, **({"n_shards": 5, "source": "model A"} | change))
    stored = np.concatenate([np.load(tmp_path / entry["file"]) for entry in manifest["shards"]])
    assert np.abs(stored - new).max() < 1e-6
    assert len(list(tmp_path.glob("*.npy"))) == manifest["n_shards"]


def test_a_shard_that_was_damaged_is_written_again(rows, tmp_path):
    before = written(tmp_path, rows, 4)
    (tmp_path / "shard_0002.npy").write_bytes(b"torn")
    assert checksum(written(tmp_path, rows, 4)) == checksum(before)
    assert len(search_shards(tmp_path, rows[:1], 3, jobs=1)[1]) == 1


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_search_names_the_shard_that_is_missing_or_damaged_and_merges_nothing(harm, rows, tmp_path):
    entry, path = written(tmp_path, rows, 4)["shards"][1], tmp_path / "shard_0001.npy"
    if harm == "missing":
        path.unlink()
    else:
        held = bytearray(path.read_bytes())
        held[-1] ^= 1
        path.write_bytes(held)
    with pytest.raises(CourseError, match=rf"shard_0001\.npy.*{entry['sha256'][:12]}.*nothing was merged"):
        search_shards(tmp_path, rows[:2], 3)


def test_bad_input_is_one_sentence(rows, tmp_path):
    with pytest.raises(CourseError, match="201 shards are more than the 200 vectors"):
        written(tmp_path / "few", rows, 201)
    assert not (tmp_path / "few").exists()
    with pytest.raises(CourseError, match="holds no gallery in shards"):
        search_shards(tmp_path / "few", rows[:1], 1)
    written(tmp_path / "a", rows, 3)
    with pytest.raises(CourseError, match="Queries have 8 dimensions and the gallery 24"):
        search_shards(tmp_path / "a", unit_rows(2, 8), 3)
    with pytest.raises(CourseError, match="k is 201"):
        search_shards(tmp_path / "a", rows[:2], 201)
    with pytest.raises(CourseError, match=r"rows of shape \(199, 24\)"):
        write_shards(tmp_path / "c", lambda first, last: rows[first : last - 1], 200, 1, "test", 24)


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_sentence_and_nothing_is_merged(rows, tmp_path, monkeypatch):
    written(tmp_path, rows, 3)
    monkeypatch.setattr(shards, "search_one", die)
    with pytest.raises(CourseError, match="A worker process died .* nothing was merged"):
        search_shards(tmp_path, rows[:2], 3)


def test_the_manifest_tells_what_it_holds(rows, tmp_path):
    written(tmp_path, rows, 3, "mini, original")
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert {key: found[key] for key in ("schema", "source", "rows", "dim", "n_shards")} == {
        "schema": 1, "source": "mini, original", "rows": 200, "dim": 24, "n_shards": 3
    }  # fmt: skip
    assert [(entry["first"], entry["rows"]) for entry in found["shards"]] == [(0, 66), (66, 67), (133, 67)]
