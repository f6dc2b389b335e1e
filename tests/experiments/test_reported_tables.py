"""Every cell of every table of scores, against arithmetic by hand."""

from __future__ import annotations

import math

import pytest

from utils.experiments.ablation import ablation_table
from utils.experiments.audit_summary import audit_summary
from utils.experiments.audits import audit_table
from utils.experiments.benchmark import HEADER, main, results_table, table_rows
from utils.experiments.results import write_results
from utils.experiments.sequence import sequence_table
from utils.experiments.sweep import sweep_table
from utils.experiments.tables import by_setting, percent, score_cells

# what a table shows, in the order of its columns
SHOWN = ("forget accuracy", "forget r1", "forget map", "retain r1", "retain map", "unseen r1", "unseen map")
DECOYS = ("r5", "mean_cosine", "nearest_cosine", "tar", "lookalike_fmr", "accuracy")  # and what it does not


def run(method: str, seed: int, values: list, **fields) -> dict:
    """Return a row of results with these shown scores; a score of ... is left out, everything else is 0.777."""
    row = {pool: dict.fromkeys(DECOYS, 0.777) for pool in ("forget", "retain", "unseen", "dev_forget", "chance")}
    for column, value in zip(SHOWN, values, strict=True):
        pool, score = column.split()
        row[pool] = {key: old for key, old in row[pool].items() if key != score} | (
            {} if value is ... else {score: value}
        )
    row |= {"method": method, "seed": seed, "dataset": "d", "backbone": "mini", "n_forget": 10, "threshold": 0.777}
    return row | {"forget_ids": [f"Ann {seed}"], "seconds": 5.4, "images_processed": 999, "gallery_size": 55} | fields


def three_seeds(method: str, **fields) -> list[dict]:
    """Column j holds 9 j, 10 j and 14 j percent: mean 11 j, half range 2.5 j; the median would be 10 j."""
    shares = (0.09, 0.10, 0.14)
    prices = ({"seconds": 1200.0, "images_processed": 1000}, {"seconds": 1300.0, "images_processed": 2000},
              {"seconds": 1700.0, "images_processed": 6000})  # fmt: skip
    return [run(method, seed, [shares[seed] * j for j in range(1, 8)], **prices[seed], **fields) for seed in range(3)]


MEANS = ["11.0 ± 2.5", "22.0 ± 5.0", "33.0 ± 7.5", "44.0 ± 10.0", "55.0 ± 12.5", "66.0 ± 15.0", "77.0 ± 17.5"]


def hand_made() -> dict:
    """Return a results file in no order: two data sets, two sizes, dev people, missing values, a run that diverged."""
    single = [0.011, 0.022, 0.033, 0.944, 0.955, 0.866, 1.0]
    holes = [
        run("esc", 1, [None, 0.3, math.nan, 0.8, ..., 0.6, None]),
        run("esc", 0, [..., 0.1, 0.2, 0.9, None, 0.5, ...]),
    ]
    del holes[0]["seconds"]
    lost = {
        key: value
        for key, value in run("dispersion", 1, [0.0] * 7).items()
        if key not in ("forget", "retain", "unseen")
    }
    del lost["seconds"], lost["images_processed"]
    lost["error"] = "The run diverged at step 3."
    return {
        "runs": [
            run("homemade", 0, single, n_forget=5),
            run("dispersion", 0, single[::-1]), lost,
            *holes,
            *three_seeds("retrain")[::-1],
            run("original", 0, single, dataset="a", backbone="facenet"),
            run("original", 0, single[::-1], dev=True, n_forget=5, seconds=0.0, images_processed=0),
        ]
    }  # fmt: skip


SINGLE = ["1.1", "2.2", "3.3", "94.4", "95.5", "86.6", "100.0"]
ROWS = [
    ["a / facenet", "10", "reference", "Original model", *SINGLE, "5", "999", ""],
    ["d / mini (dev)", "5", "reference", "Original model", *SINGLE[::-1], "0", "0", ""],
    ["d / mini", "5", "–", "homemade", *SINGLE, "5", "999", ""],
    # (1200 + 1300 + 1700)/3 seconds, (1000 + 2000 + 6000)/3 images
    ["d / mini", "10", "reference", "Retrained without them", *MEANS, "1,400", "3,000", ""],
    ["d / mini", "10", "weights", "Dispersion, log-sum-exp", *SINGLE[::-1], "5", "999", "diverged: seed 1"],
    # forget R@1 (10 + 30)/2, mAP of the one seed that knows it, retain R@1 (80 + 90)/2, unseen R@1 (50 + 60)/2
    ["d / mini", "10", "wrapper", "Erasing a subspace (ESC)",
     "–", "20.0 ± 10.0", "20.0", "85.0 ± 5.0", "–", "55.0 ± 5.0", "–", "5", "999", ""],
]  # fmt: skip


def test_every_cell_of_the_results_table_is_right():
    table = results_table(hand_made())
    assert table.rows == [[*HEADER, "remark"], *ROWS]
    assert (
        "forget accuracy ↓,forget R@1 ↓,forget mAP ↓,retain R@1 ↑,retain mAP ↑,unseen R@1 ↑,unseen mAP ↑"
        == ",".join(HEADER[4:11])
    )
    assert (HEADER[:4], HEADER[11:]) == (("data / model", "forgotten", "class", "method"), ("seconds", "images"))
    assert "No result: dispersion, seed 1, 10 people: The run diverged at step 3." in table.notes


def test_the_narrow_table_and_the_markdown_have_the_same_cells():
    results = {"runs": [row for row in hand_made()["runs"] if row["dataset"] == "d" and row["n_forget"] == 10]}
    narrow = results_table(results, narrow=True)
    assert narrow.rows == [[*HEADER[3:11], "remark"], *([*row[3:11], row[-1]] for row in ROWS[3:])]
    lines = results_table(hand_made(), markdown=True).splitlines()
    assert lines[0] == "| " + " | ".join([*HEADER, "remark"]) + " |"
    assert lines[2:8] == ["| " + " | ".join(row) + " |" for row in ROWS]


def test_the_table_of_a_file_has_the_same_cells(tmp_path, capsys):
    """Through JSON, where what is unknown is null; with chosen methods, only theirs."""
    runs = hand_made()["runs"]
    write_results(tmp_path / "r.json", {"schema": 2, "runs": [row for row in runs if row["method"] != "homemade"]})
    assert main(["--table", "--markdown", "--out", str(tmp_path / "r.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    wanted = ["| " + " | ".join(row) + " |" for row in ROWS if row[3] != "homemade"]
    assert lines[2:7] == wanted
    chosen = ["--methods", "retrain,esc"]
    assert main(["--table", "--markdown", *chosen, "--out", str(tmp_path / "r.json")]) == 0
    lines = [row.removesuffix(" |  |") + " |" for row in (wanted[2], wanted[4])]  # no remark, no column of remarks
    assert capsys.readouterr().out.splitlines()[2:4] == lines


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.1, 0.2, 0.6], "30.0 ± 25.0"),  # half of 60 - 10; the mean of 10, 20, 60
        ([0.6, 0.1], "35.0 ± 25.0"),
        ([0.5, 0.5], "50.0 ± 0.0"),
        ([0.5], "50.0"),
        ([0.0], "0.0"),
        ([None, 0.25, math.nan], "25.0"),
        ([None, math.nan], "–"),
        ([], "–"),
        ([1.0, 0.9995], "100.0 ± 0.0"),
        ([0.12344, 0.12346], "12.3 ± 0.0"),
    ],
)
def test_percent_is_the_mean_and_half_the_range_of_what_is_known(values, text):
    assert percent(values) == text


def test_a_column_takes_its_own_pool_and_score():
    columns = [(pool, score) for pool in ("forget", "retain", "unseen", "other") for score in ("r1", "map", "accuracy")]
    runs = [run("esc", seed, [0.01 * (seed + 2) * j for j in range(1, 8)]) for seed in (0, 1)]  # 2 j and 3 j percent
    found = dict(zip(columns, score_cells(runs, columns), strict=True))
    assert [found[tuple(name.split())] for name in SHOWN] == [f"{2.5 * j:.1f} ± {0.5 * j:.1f}" for j in range(1, 8)]
    assert found["unseen", "accuracy"] == "77.7 ± 0.0" and found["other", "map"] == "–"


def test_a_table_of_two_sizes_or_seeds_averages_neither_sizes_nor_people():
    runs = [run("esc", seed, [0.1 * (number + seed)] * 7, n_forget=number) for number in (1, 5) for seed in (0, 1)]
    assert [[row[1], *row[3:5]] for row in table_rows({"runs": runs})[0]] == [
        ["1", "Erasing a subspace (ESC)", "15.0 ± 5.0"],
        ["5", "Erasing a subspace (ESC)", "55.0 ± 5.0"],
    ]


@pytest.mark.parametrize(
    ("field", "one", "other"),
    [
        ("dataset", "d", "e"), ("fingerprint", "a", "b"), ("image_size", 64, 80), ("n_identities", 180, 12),
        ("n_forget", 5, 10), ("dev", False, True), ("backbone", "mini", "facenet"), ("pretrained", "auto", "none"),
        ("train", {"epochs": 32}, {"epochs": 8}), ("profile", "quick", "full"), ("config", {"steps": 1}, {"steps": 2}),
        ("group", "a", "b"), ("label", "a", "b"), ("options", {"a": 1}, {"a": 2}), ("sizes", [5, 5], [10]),
        ("attacks", ["pairs"], ["search"]), ("method", "esc", "salun"),
    ],
)  # fmt: skip
def test_what_differs_in_more_than_its_seed_is_never_averaged(field, one, other):
    rows = [run("esc", seed, [share] * 7, **{"config": {}}) for seed, share in ((0, 0.1), (1, 0.3))]
    assert [row[5] for row in table_rows({"runs": rows})[0]] == ["20.0 ± 10.0"]
    rows = [row | {field: value} for row, value in zip(rows, (one, other), strict=True)]
    assert sorted(row[5] for row in table_rows({"runs": rows})[0]) == ["10.0", "30.0"]
    assert [len(group) for group in by_setting(rows).values()] == [1, 1]


def test_a_narrow_table_says_in_words_what_its_columns_do_not():
    """Two numbers of people: a column of the wide table, a remark in the narrow one."""
    results = {"runs": [run("esc", 0, [0.1 * number] * 7, n_forget=number) for number in (5, 1)]}
    assert [row[:2] + row[-1:] for row in results_table(results, narrow=True).rows[1:]] == [
        ["Erasing a subspace (ESC)", "10.0", "n forget 1"],
        ["Erasing a subspace (ESC)", "50.0", "n forget 5"],
    ]
    assert all(len(row) == len(HEADER) for row in results_table(results).rows)


def test_the_seeds_without_a_result_are_named_in_order():
    lost = [{**run("esc", seed, [...] * 7), "error": "The run diverged at step 3."} for seed in (2, 0)]
    other = {**run("esc", 3, [...] * 7), "error": "Out of memory."}
    rows = results_table({"runs": [*lost, run("esc", 1, [0.1] * 7)]}).rows
    assert rows[1][4] == "10.0" and rows[1][-1] == "diverged: seed 0, 2"
    assert results_table({"runs": [*lost, other, run("esc", 1, [0.1] * 7)]}).rows[1][-1] == "no result: seed 0, 2, 3"
    assert results_table({"runs": lost}).rows[1][-1] == "diverged"


# ------------------------------------------------------------------------------------------------------- other tables


def test_every_cell_of_the_sweeps_table_is_right():
    one, two = (
        run("finetune", 0, [0.777, *values], options={"learning_rate": rate, "steps": 7}, images_processed=images)
        for rate, images, values in (
            (0.01, 1234, [0.11, 0.12, 0.13, 0.14, 0.15, 0.16]),
            (0.02, 5, [0.21, None, 0.23, 0.24, 0.25, 0.26]),
        )
    )
    lost = {"method": "finetune", "seed": 0, "options": {"learning_rate": 0.5}, "error": "The run diverged at step 1."}
    start = run("original", 0, [0.777, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96], options={}, images_processed=0)
    sweep = {"trials": [start, one, two, lost], "chosen": {"finetune": {"learning_rate": 0.02, "steps": 7}}}
    table = sweep_table(sweep)
    assert table.rows == [
        ["", "method", "options", "forget R@1", "mAP", "retain R@1", "mAP", "unseen R@1", "mAP", "images", "remark"],
        ["", "original", "", "91.0", "92.0", "93.0", "94.0", "95.0", "96.0", "0", ""],
        ["", "finetune", "learning_rate 0.01, steps 7", "11.0", "12.0", "13.0", "14.0", "15.0", "16.0", "1,234", ""],
        ["*", "finetune", "learning_rate 0.02, steps 7", "21.0", "–", "23.0", "24.0", "25.0", "26.0", "5", ""],
        ["", "finetune", "learning_rate 0.5", "–", "–", "–", "–", "–", "–", "0", "diverged"],
    ]
    sweep["trials"].append(run("salun", 0, [0.5] * 7, options={}))
    assert sweep_table(sweep, ["finetune"]).rows == table.rows and len(sweep_table(sweep, ["salun"]).rows) == 3


def test_every_cell_of_the_ablations_table_is_right():
    place, options = {"group": "the loss", "options": {}}, [{"learning_rate": rate} for rate in (1e-3, 2e-3)]
    start = [
        run("original", seed, [0.777, *[0.91 + 0.01 * j for j in range(6)]], label="start", **place) for seed in (0, 1)
    ]
    slow = run(
        "dispersion", 0, [0.777, 0.1, 0.5, 0.9, 0.9, 0.9, 0.9], label="hard", group="the loss", options=options[0]
    )
    fast = [
        run("dispersion", seed, [0.777, *values], label="hard", group="the loss", options=options[1])
        for seed, values in ((0, [0.2, 0.30, 0.93, 0.94, 0.95, 0.96]), (1, [0.4, 0.32, 0.91, 0.90, None, 0.92]))
    ]
    table = ablation_table([*start, slow, *fast])
    assert table.rows == [
        ["part", "variant", "forget R@1", "forget mAP", "retain R@1", "retain mAP", "unseen R@1", "unseen mAP"],
        ["the loss", "start", *(f"{91 + j}.0 ± 0.0" for j in range(6))],
        ["the loss", "hard", "30.0 ± 10.0", "31.0 ± 1.0", "92.0 ± 1.0", "92.0 ± 2.0", "95.0", "94.0 ± 2.0"],
    ]


def test_every_cell_of_the_sequences_table_is_right():
    """Two requests of 2 and 3 people; after each the mAP of both groups and of who stays; two seeds."""
    after = [
        [((0.90, 0.80), 0.70, 0.60), ((0.10, 0.82), 0.68, 0.57), ((0.20, 0.12), 0.66, 0.50)],
        [((0.94, 0.70), 0.72, 0.62), ((0.30, 0.74), 0.60, 0.51), ((0.22, 0.14), 0.62, None)],
    ]
    runs = [
        {"method": "esc", "seed": seed, "sizes": [2, 3]}
        | {"after": [{"groups": list(groups), "retain": r, "unseen": u} for groups, r, u in steps]}
        for seed, steps in enumerate(after)
    ]
    name = "Erasing a subspace (ESC)"
    assert sequence_table(runs).rows == [
        ["class", "method", "requests", "group 1 (2)", "group 2 (3)", "retain", "unseen"],
        ["wrapper", name, "0", "92.0 ± 2.0", "75.0 ± 5.0", "71.0 ± 1.0", "61.0 ± 1.0"],
        ["wrapper", name, "1", "20.0 ± 10.0", "78.0 ± 4.0", "64.0 ± 4.0", "54.0 ± 3.0"],
        ["wrapper", name, "2", "21.0 ± 1.0", "13.0 ± 1.0", "64.0 ± 2.0", "50.0"],
    ]
    both = [*runs, *({**run, "method": "dispersion"} for run in runs)]
    assert [row[0] for row in sequence_table(both).rows[1:]] == ["weights"] * 3 + ["wrapper"] * 3


def attack(name: str, attacker: str, score: float, recovered: float | None, metric: str = "mAP") -> dict:
    row = {"attack": name, "title": f"the {name}", "attacker": attacker, "stated_target": "half"}
    return row | {"score": score, "recovered": recovered, "metric": metric}


def audits(seed: int, step: float) -> dict:
    rows = [
        attack("search", "photos", 0.5, 0.10 + step),
        attack("views", "photos", 0.6, 0.30 + 2 * step),
        attack("pairs", "photos", 0.52 + step, 0.99, "AUC"),
        attack("centroid", "names", 0.7, None),
        attack("old", "old gallery", 0.8, 0.40 + 3 * step),
        attack("relearn", "weights", 0.9, 0.20 + 4 * step),
    ]
    return {"method": "esc", "seed": seed, "audit": rows}


def test_every_cell_of_the_audits_tables_is_right():
    runs = [audits(1, 0.06), audits(0, 0.0)]
    title = "Erasing a subspace (ESC)"
    # photos: 30 and 42, not the 99 of the pairs; old gallery: 40 and 58; weights: 20 and 44; AUC: (0.52 + 0.58)/2
    row = [title, "36.0 ± 6.0", "–", "49.0 ± 9.0", "32.0 ± 12.0", "–", "–", "–", "–"]
    header = ["method", "photos ↓", "names ↓", "old gallery ↓", "weights ↓", "old head ↓", "old model ↓"]
    assert audit_summary(runs).rows == [[*header, "names, raw top-1", "weights, raw mAP"], row]
    assert [cells[:2] for cells in audit_summary(runs, traces=True).rows] == [
        ["method", "pairs (0.5)"],
        [title, "0.55"],
    ]
    assert "| " + " | ".join([*row, "the old"]) + " |" in audit_summary(runs, markdown=True)
    table = audit_table({"esc": audits(0, 0.0)["audit"], "lotus": audits(0, 0.1)["audit"][:2]})
    assert table.rows == [
        ["attack", "metric", "stated target", "esc", "lotus"],
        ["the search", "mAP", "0.5", "50.0 (10.0)", "50.0 (20.0)"],
        ["the views", "mAP", "0.5", "60.0 (30.0)", "60.0 (50.0)"],
        ["the pairs", "AUC", "0.5", "52.0 (99.0)", "– (–)"],
        ["the centroid", "mAP", "0.5", "70.0 (–)", "– (–)"],
        ["the old", "mAP", "0.5", "80.0 (40.0)", "– (–)"],
        ["the relearn", "mAP", "0.5", "90.0 (20.0)", "– (–)"],
    ]
