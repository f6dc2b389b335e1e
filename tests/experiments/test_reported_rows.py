"""A row of results: its scores against plain loops in the unequal world, and two stored rows made again."""

from __future__ import annotations

import json
import math
import resource
from dataclasses import dataclass, replace

import pytest
import torch
from scipy.stats import spearmanr
from unequal_world import (
    DIM,
    LookupBackbone,
    World,
    cosines_of,
    flat,
    make_world,
    mean,
    plain_retrieval,
    plain_scores,
    ranked,
)

from utils.experiments import benchmark, sequence, sweep
from utils.experiments.plan import STORED, Plan, open_splits
from utils.experiments.results import about, is_row
from utils.models.checkpoints import Recogniser
from utils.models.heads import CosFace
from utils.retrieval.evaluation import Evaluation
from utils.unlearning.loop import Unlearned

NEAR = {"abs": 1e-6, "rel": 0, "nan_ok": True}
PLAN = Plan(device="cpu", seed=4)


@dataclass
class Outcome:
    """What a pretended method makes of the world: another model, another head, and what that world's scores are."""

    world: World
    start: Recogniser
    result: Unlearned
    calls: list


@pytest.fixture
def outcome(monkeypatch) -> Outcome:
    world = make_world()
    start = Recogniser(LookupBackbone(world.points), world.head, "drawn", seconds=12.34)
    head = CosFace(DIM, len(world.splits.trained))
    head.weight.data = world.head.weight.data + 0.3 * torch.randn(
        head.weight.shape, generator=torch.Generator().manual_seed(0)
    )
    after = world._replace(points=world.other_points, cosines=cosines_of(world.other_points), head=head)
    result = Unlearned(LookupBackbone(after.points), head, seconds=3.456, images_processed=789)
    calls: list = []
    monkeypatch.setattr(benchmark, "unlearn", lambda *args, **options: calls.append((args, options)) or result)
    return Outcome(after, start, result, calls)


def person_maps(world: World) -> dict[str, float]:
    ranks = [one for query in world.queries("forget") if (one := ranked(world, query, world.gallery()))]
    people = {one.person for one in ranks}
    return {f"Person {who}": mean([one.precision for one in ranks if one.person == who]) for who in sorted(people)}


def test_the_measured_half_of_a_row_is_that_of_the_unlearned_model_and_head(outcome, monkeypatch):
    world = outcome.world
    monkeypatch.setattr(benchmark, "peak_memory_mb", lambda device: {"cpu": 1234.56}[device.type])
    unlearned, view, row = benchmark.one_run(PLAN, world.splits, outcome.start, "esc", 6, False)
    expected = plain_scores(world) | {"pretrain_seconds": 12.3, "seconds": 3.46, "images_processed": 789}
    peak, people, order = row.pop("peak_memory_mb"), row.pop("forget_people"), row.pop("order_kept")
    both = [(one, one.gallery()) for one in (make_world(), world)]
    rows = [[[one.cosines[query][i] for i in gallery] for one, gallery in both] for query in world.queries("retain")]
    found = [spearmanr(*row) for row in rows]
    assert order == round(mean([one.statistic for one in found]), 4) and 0 < abs(order) < 1
    assert flat(row) == pytest.approx(flat(expected), **NEAR)
    assert people == pytest.approx(person_maps(world), abs=5.1e-5) and len(people) == 3
    assert all(value == round(value, 4) for value in people.values()) and len(set(people.values())) == 3
    assert peak == 1234.6
    assert unlearned is outcome.result and view.head is outcome.result.head and view.splits is world.splits
    before = plain_scores(make_world())  # that of the model before is another row
    alike = [name for name, value in flat(before).items() if abs(value - flat(expected)[name]) < 1e-6]
    assert not {"forget map", "retain map", "unseen map", "forget accuracy", "threshold"} & set(alike)
    args, options = outcome.calls[0]
    assert args == ("esc", outcome.start.model, outcome.start.head, world.splits) and options["seed"] == 6


def test_a_stored_row_has_the_measured_numbers_and_counts_its_own_pools(outcome, tmp_path):
    world, out = outcome.world, tmp_path / "r.json"
    benchmark.run_method(PLAN, world.splits, outcome.start, "esc", out, progress=False)
    (row,) = benchmark.read_results(out)["runs"]
    scores = plain_scores(world)
    assert flat({name: row[name] for name in scores}) == pytest.approx(flat(scores), **NEAR)
    assert row["forget_people"] == pytest.approx(person_maps(world), abs=5.1e-5)
    counts = {pool: len(world.queries(pool)) for pool in ("forget", "retain", "unseen")}
    people = {pool: len(world.people(world.chosen(pool))) for pool in ("forget", "retain", "dev_forget", "unseen", "")}
    assert row["n_queries"] == counts == {"forget": 11, "retain": 29, "unseen": 16}
    assert row["n_photos"] == len(world.photos) and row["n_forget"] == people["forget"] == 5
    assert row["n_identities"] == len({photo.person for photo in world.photos}) == 24
    assert row["forget_ids"] == [f"Person {who}" for who in world.people(world.chosen("forget"))]
    assert (row["seed"], row["method"], row["dataset"], row["dev"]) == (4, "esc", "unequal", False)
    assert outcome.calls[0][1]["seed"] == 4


def test_what_is_unknown_is_stored_as_null(outcome, tmp_path, monkeypatch):
    unknown = {"forget": {"r1": 0.25, "tar": math.nan}, "threshold": math.nan}
    monkeypatch.setattr(Evaluation, "scores", lambda self: unknown)
    benchmark.run_method(PLAN, outcome.world.splits, outcome.start, "esc", tmp_path / "r.json", progress=False)
    (row,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert row["forget"] == {"r1": 0.25, "tar": None} and row["threshold"] is None


def test_rows_count_what_their_own_splits_hold(default_splits):
    """People of all pools, photos of the whole data set, and the queries of each pool."""
    faces, parts = default_splits.faces, default_splits
    said = about("original", parts, "/somewhere/mine", asked=True)
    owner = dict(enumerate(faces.labels.tolist()))
    for pool, number in said["n_queries"].items():
        assert number == sum(owner[photo] in getattr(parts, pool) for photo in parts.query.tolist()) > 0
    assert said["n_photos"] == len(owner) and said["n_identities"] == len(set(owner.values())) == 180
    assert said["n_forget"] == 10 and said["forget_ids"] == [faces.identities[label] for label in parts.forget]
    assert (said["dataset"], said["dataset_name"], said["asked"]) == ("synthetic", "mine", True)
    assert (said["kind"], said["image_size"], said["fingerprint"]) == ("reference", 64, faces.fingerprint)


def test_nobody_to_search_for_is_nobody_by_name(outcome):
    splits = outcome.world.splits.faces, 0, (), (), outcome.world.splits.retain
    parts = [outcome.world.splits.train[:0], outcome.world.splits.query, outcome.world.splits.gallery]
    everybody = type(outcome.world.splits)(*splits, (), (), *parts)
    photos = outcome.world.chosen()
    points = torch.from_numpy(outcome.world.points[photos]).float()
    assert benchmark.map_by_person(Evaluation.make(points, photos, everybody)) == {}


def test_a_trial_of_the_sweep_keeps_the_scores_of_its_model_to_four_places(outcome, monkeypatch):
    world = outcome.world
    monkeypatch.setattr(sweep, "dev_world", lambda *_: (world.splits, outcome.start))
    monkeypatch.setattr(sweep, "unlearn", lambda *args, **options: outcome.result)
    scores, row = plain_scores(world), sweep.run_trial("esc", {})
    assert row.pop("images_processed") == 789 and row.pop("seconds") == 3.5
    kept = {"forget": ("r1", "map", "accuracy"), "retain": ("r1", "map", "accuracy"), "unseen": ("r1", "map")}
    expected = {pool: {name: scores[pool][name] for name in names} for pool, names in kept.items()}
    assert flat(row) == pytest.approx(flat(expected), abs=5.1e-5)
    assert all(value == round(value, 4) for value in flat(row).values())


def test_after_each_request_every_groups_people_are_searched_for_in_the_newest_model(outcome, monkeypatch):
    """The first request is answered with the other model, the second with the first one again."""
    after, before = outcome.world, make_world()
    found = sorted(int(name.split()[1]) for name in person_maps(after))  # who is searched for, and enrolled
    rest = tuple(sorted({*after.splits.retain, *after.splits.forget} - set(found)))
    splits = replace(after.splits, forget=tuple(found), retain=rest)
    models = {"first": outcome.start.model, "second": outcome.result.model}
    answers, asked = iter([models["second"], models["first"]]), []

    def answer(name, model, head, request, seed, device, progress):
        asked.append((model, request.forget, seed))
        return Unlearned(next(answers), head)

    monkeypatch.setattr(sequence, "sequence_splits", lambda sizes, seed, world: splits)
    monkeypatch.setattr(sequence, "original_recogniser", lambda *_, **__: outcome.start)
    monkeypatch.setattr(sequence, "unlearn", answer)
    rows = sequence.run_requests("esc", (1, 2), 5)["after"]
    groups = [request.forget for request in sequence.requests_of(splits, (1, 2))]
    assert asked == [(models["first"], groups[0], 5), (models["second"], groups[1], 5)]
    for row, world in zip(rows, (before, after, before), strict=True):
        maps = person_maps(world)
        expected = [mean([maps[f"Person {person}"] for person in group]) for group in groups]
        assert row["groups"] == pytest.approx(expected, abs=5.1e-5)
        queries = [i for i in world.queries() if world.photos[i].person in rest]
        assert row["retain"] == pytest.approx(plain_retrieval(world, queries, world.gallery())["map"], abs=5.1e-5)
        assert row["unseen"] == pytest.approx(plain_scores(world)["unseen"]["map"], abs=5.1e-5)


def test_peak_memory_is_the_devices_or_the_processs_in_mebibytes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3.5 * 2**20)
    assert benchmark.peak_memory_mb(torch.device("cuda")) == 3.5
    used = resource.struct_rusage([0.0, 0.0, 5 * 2**20, *range(1, 14)])
    monkeypatch.setattr(resource, "getrusage", lambda who: used)
    for system, expected in (("Linux", 5 * 1024), ("Darwin", 5)):  # kilobytes there, bytes here
        monkeypatch.setattr(benchmark.platform, "system", lambda system=system: system)
        assert benchmark.peak_memory_mb(torch.device("cpu")) == expected


# --------------------------------------------------------------------------------- the course's own rows, made again


@pytest.fixture(scope="module")
def opened() -> dict:
    return {}


@pytest.mark.parametrize("name", ["original", "esc", "boundary_expand", "dispersion_uniform_alone", "dispersion"])
def test_the_stored_row_of_seed_0_is_what_todays_code_gives(name, opened):
    """Every number of the committed model and of ESC; of hundreds of steps, whose rounding differs by CPU, the mAPs."""
    stored = benchmark.read_results(STORED / "synthetic_quick.json")["runs"]
    plan = Plan(device="cpu")
    identity = benchmark.run_identity(plan, open_splits(plan, 0, opened, False), name, 0)
    (old,) = [row for row in stored if is_row(row, identity)]
    row = benchmark.fresh_run(opened, False, plan, name, 0)
    for part in ("chance", "gallery_size", "images_processed"):
        assert row[part] == pytest.approx(old[part], abs=1e-9)
    if name not in ("original", "esc"):
        found, known = ({pool: one[pool]["map"] for pool in ("forget", "retain", "unseen")} for one in (row, old))
        assert found == pytest.approx(known, abs=0.02)
        return
    for part in ("forget", "retain", "unseen", "dev_forget", "forget_people"):
        assert row[part] == pytest.approx(old[part], abs=0.01)
    assert row["threshold"] == pytest.approx(old["threshold"], abs=0.01)
