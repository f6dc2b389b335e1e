"""Every attack agrees with plain loops, looks at its own photos alone, and is held against its own target."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import random
from types import SimpleNamespace

import audit_world
import numpy as np
import pytest
import slow_audit
import torch
import torch.nn.functional as F
from audit_world import CPU, DIM

from utils.audit import case as case_room
from utils.audit import gallery, summary, weights
from utils.audit import names as names_room
from utils.audit import photos as photos_room
from utils.audit.case import ATTACKS, Subject
from utils.audit.photos import DISTURBANCES
from utils.audit.summary import audit, names_nobody, recovered
from utils.settings import CourseError
from utils.unlearning.methods.projection import ProjectedBackbone

SEED = 3
SPLITS, NOTES = audit_world.world()
MODELS = audit_world.models(SPLITS)
UNDER_AUDIT = ("original", "retrained", "unlearned", "wrapped")
LOOK = audit_world.attributes(SPLITS, MODELS["original"][0])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let the world's people have known attributes, and a student few steps."""
    monkeypatch.setattr(photos_room, "known_attributes", lambda faces: LOOK)
    monkeypatch.setattr(weights, "DISTIL_STEPS", 4)
    monkeypatch.setattr(photos_room, "NEIGHBOURS", 2)


@functools.cache
def case_of(who: str):
    return audit_world.case_of(SPLITS, MODELS, who, SEED)


@functools.cache
def slow(who: str, name: str) -> dict:
    """What an attack on one of the models finds, by plain loops."""
    eye, old = (slow_audit.Eye(slow_audit.numbers(MODELS[one][0]), SPLITS) for one in (who, "original"))
    head = MODELS["original"][1].weight.detach().double().numpy()
    start = slow_audit.numbers(weights.fresh(MODELS[who][0], SEED))
    more = {"attributes": LOOK.double().numpy(), "start": start, "steps": weights.DISTIL_STEPS}
    more["neighbours"] = photos_room.NEIGHBOURS
    return slow_audit.attacks(SPLITS, eye, old, head, SEED, more)[name]()


def told(result: dict) -> dict[str, float]:
    """All numbers of a result, side by side."""
    people = {f"person {person}": score for person, score in result.get("people", {}).items()}
    found = {key: result[key] for key in ("score", "chance", "unseen") if key in result}
    return found | result.get("details", {}) | people


# ------------------------------------------------------------------------------------------------- every number


@pytest.mark.parametrize("who", UNDER_AUDIT)
@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_agrees_with_plain_loops(name, who):
    assert told(ATTACKS[name].run(case_of(who))) == pytest.approx(told(slow(who, name)), abs=1e-5, nan_ok=True)


def test_the_models_of_this_world_are_told_apart_by_every_attack():
    """Else the test above could not tell which model was attacked."""
    for name in ATTACKS:
        found = [told(slow(who, name)) for who in ("original", "retrained", "unlearned")]
        scores = [one for one in found if not math.isnan(one["score"])]
        assert all(a != pytest.approx(b, abs=1e-4) for i, a in enumerate(scores) for b in scores[:i]), name


def test_disturbed_faces_agree_with_plain_loops():
    assert list(DISTURBANCES) == list(slow_audit.CHANGES)
    for name, change in DISTURBANCES.items():
        for face in SPLITS.faces.pixels[:3].clone():
            wanted = slow_audit.CHANGES[name](face.numpy()).clip(0, 255)
            assert np.abs(change(face[None])[0].numpy() - wanted).max() <= 0.501, name


def eye_of(who: str) -> slow_audit.Eye:
    return slow_audit.Eye(slow_audit.numbers(MODELS[who][0]), SPLITS)


def test_maps_votes_and_whitening_agree_with_plain_loops():
    """Number by number: a score can stay though they are somewhat off."""
    case, eye, old = case_of("unlearned"), eye_of("unlearned"), eye_of("original")
    known, asked = slow_audit.named(SPLITS, 5), SPLITS.photos("forget", "query").tolist()
    photos, names = slow_audit.sampled(SPLITS), [slow_audit.who(SPLITS, i) for i in known]
    x, y = (np.array([one(i) for i in photos]) for one in (eye, old))
    for name, slow_fit in (
        ("orthogonal", slow_audit.procrustes),
        ("linear", lambda a, b: slow_audit.ridge_of(a, b, 0.001)),
    ):
        fitted = gallery.FITS[name](torch.from_numpy(x), torch.from_numpy(y))
        np.testing.assert_allclose(fitted.numpy(), slow_fit(x, y), atol=1e-8)
    rows = case.subject.rows(np.array(known)), np.array(names), case.subject.rows(np.array(asked))
    for fast, slow_votes in (
        (names_room.probed_votes(*rows), slow_audit.probe_votes),
        (names_room.nearest_votes(*rows, k=5), slow_audit.neighbour_votes),
    ):
        for votes, i in zip(fast.tolist(), asked, strict=True):
            wanted = slow_votes([eye(k) for k in known], names, eye(i))
            assert votes == pytest.approx([wanted.get(person, 0.0) for person in sorted(set(names))], abs=1e-5)
    for parts in (("first",), ("second", "embedding")):
        see = slow_audit.shrunk(SPLITS, eye, parts)
        white, slowly = weights.whitened(case, parts, np.array(asked)).numpy(), np.array([see(i) for i in asked])
        np.testing.assert_allclose(white @ white.T, slowly @ slowly.T, atol=1e-5)


def searched_with(monkeypatch, name: str, case) -> list[dict]:
    """The weights of the changed models with which an attack searches."""
    found = []

    def search(case, model=None):
        found.append(slow_audit.numbers(case.subject.model if model is None else model))
        return {"score": 0.5, "people": {}}

    monkeypatch.setattr(weights, "plain_search", search)
    ATTACKS[name].run(case)
    return found


@pytest.mark.parametrize("who", ["unlearned", "wrapped"])
def test_changed_weights_agree_with_plain_loops(who, monkeypatch):
    eye, old = eye_of(who), eye_of("original")
    start = slow_audit.numbers(weights.fresh(MODELS[who][0], SEED))
    wanted = {
        "batchnorm": [slow_audit.measured_anew(SPLITS, eye)],
        "int8": [slow_audit.rounded(eye, 127)],
        "int4": [slow_audit.rounded(eye, 7)],
        "pruned_10": [slow_audit.thinned(eye, 0.1)],
        "pruned_30": [slow_audit.thinned(eye, 0.3)],
        "averaged": slow_audit.mixed(eye, old),
        "distil_back": [slow_audit.student_of(SPLITS, eye, start, SEED, weights.DISTIL_STEPS)],
        "relearn": [eye.w, *slow_audit.taught_again(SPLITS, eye, SEED, True).values()],
        "relearn_others": [eye.w, *slow_audit.taught_again(SPLITS, eye, SEED, False).values()],
    }
    for name, changed in wanted.items():
        found = searched_with(monkeypatch, name, case_of(who))
        assert len(found) == len(changed), name
        for mine, slowly in zip(found, changed, strict=True):
            assert mine.keys() == slowly.keys(), name
            off = max(float((mine[key] - slowly[key]).abs().max()) for key in mine)
            assert off < (2e-5 if name.startswith(("relearn", "distil")) else 1e-6), (name, off)


@pytest.mark.parametrize("at_once", [16, 32])
def test_many_photos_are_looked_at_in_batches(at_once, monkeypatch):
    for room in (case_room, weights):
        monkeypatch.setattr(room, "PHOTOS_AT_ONCE", at_once)
    case = audit_world.case_of(SPLITS, MODELS, "unlearned")
    assert told(ATTACKS["layers"].run(case)) == pytest.approx(told(slow("unlearned", "layers")), abs=1e-5)
    (found,) = searched_with(monkeypatch, "batchnorm", case)
    wanted = slow_audit.measured_anew(SPLITS, eye_of("unlearned"), at_once)
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


def test_models_of_other_widths_are_compared_as_far_as_they_can_be():
    narrow = audit_world.net(SPLITS, 6), audit_world.head(23, len(SPLITS.trained))
    case, old = case_of("unlearned"), eye_of("original")
    eye = slow_audit.Eye(slow_audit.numbers(narrow[0]), SPLITS)
    with torch.no_grad():
        narrow[1].weight = torch.nn.Parameter(narrow[1].weight[:, :6])
    case = case.on(Subject(*narrow, SPLITS, CPU))
    wanted = slow_audit.attacks(SPLITS, eye, old, np.zeros((0, 6)), SEED, {})
    for name in ("old_gallery_linear", "old_query_linear"):
        assert told(ATTACKS[name].run(case)) == pytest.approx(told(wanted[name]()), abs=1e-5)
    for name in ("old_gallery", "old_query", "old_gallery_orthogonal", "old_query_orthogonal", "averaged", "head_rows"):
        result = ATTACKS[name].run(case)
        assert math.isnan(result["score"]) and result["note"], name


def test_nobody_names_more_photos_than_every_forgotten_and_unseen_person_can():
    forget = SPLITS.photos("forget", "train")
    few = np.setdiff1d(SPLITS.train, [i for i in forget if NOTES[i][2] >= 1])
    for splits, most in (
        (dataclasses.replace(SPLITS, train=few), 2),  # a forgotten person with one gallery and one training photo
        (dataclasses.replace(SPLITS, unseen=()), 7),  # one and six
        (SPLITS, 6),  # an unseen person with six gallery photos
    ):
        case = dataclasses.replace(case_of("unlearned"), splits=splits)
        for shots in (1, 2, 4, 20):
            photos, given = names_room.named_photos(case, shots)
            assert given == min(shots, most) and sorted(photos) == sorted(slow_audit.named(splits, shots))


def test_ten_photos_of_the_first_150_retained_people_are_the_sample():
    labels = np.repeat(np.arange(160), 12)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    retain = tuple(rng.permutation(158).tolist())
    pools = {"forget": (158,), "dev_forget": (159,), "retain": retain, "unseen": (), "distractors": ()}
    nothing = np.empty(0, np.int64)
    parts = {"train": np.arange(len(labels)), "query": nothing, "gallery": nothing}
    splits = audit_world.splits_of(torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), labels[order], pools, parts)
    sample = case_room.sample(splits)
    assert sample.tolist() == slow_audit.sampled(splits) and len(sample) == 1500 and sample.dtype == np.int64


def test_relearning_shows_ten_others_or_three_for_each_forgotten():
    few = dataclasses.replace(SPLITS, forget=SPLITS.forget[:1], dev_forget=SPLITS.dev_forget + SPLITS.forget[1:])
    for splits, n_others in ((few, 10), (SPLITS, 12)):
        case = dataclasses.replace(case_of("unlearned"), splits=splits)
        for with_forget in (True, False):
            photos = weights.relearning_photos(case, with_forget)
            assert photos.tolist() == slow_audit.shown(splits, with_forget)
            assert len(np.unique(case.labels(photos))) == n_others + with_forget * len(splits.forget)


def test_rows_are_those_of_the_photos_asked_for_and_of_no_others():
    case, eye = case_of("unlearned"), eye_of("unlearned")
    asked = np.random.default_rng(0).permutation(case.subject.photos)[:30]
    for part in ("first", "second", "embedding"):
        wanted = np.array([eye(i, part) for i in asked])
        np.testing.assert_allclose(case.subject.rows(asked, part), wanted, atol=1e-6)
    with pytest.raises(CourseError, match="none that an audit looks at"):
        case.subject.rows(SPLITS.photos("dev_forget", "train"))


# ------------------------------------------------------------------------------------------------- every row

# name: what the attacker holds, what is scored, and the fair comparison
STATED = {
    "search": "photos mAP chance",
    "search_train": "photos mAP chance",
    "views": "photos mAP chance",
    "disturbed": "photos mAP chance",
    "pairs": "photos AUC half",
    "pairs_train": "photos AUC half",
    "one_photo": "photos AUC half",
    "trait_leakage": "photos matched strangers",
    "other_similarity": "photos mAP chance",
    "collateral": "photos mAP original",
    "template": "names mAP chance",
    "medoid": "names mAP chance",
    "neighbours_5": "names top-1 unseen",
    "probe_1": "names top-1 unseen",
    "probe_5": "names top-1 unseen",
    "probe_20": "names top-1 unseen",
    **{name: "old gallery|mAP|chance" for name in ATTACKS if name.startswith("old_")},
    "layers": "weights mAP retrained",
    "layers_joined": "weights mAP retrained",
    "relearn": "weights|mean mAP|retrained",
    "relearn_others": "weights|mean mAP|retrained",
    "batchnorm": "weights mAP chance",
    "int8": "weights mAP chance",
    "int4": "weights mAP retrained",
    "pruned_10": "weights mAP chance",
    "pruned_30": "weights mAP chance",
    "averaged": "old model|mAP|chance",
    "taken_off": "weights mAP chance",
    "distil_back": "weights mAP retrained",
    "adversarial_query": "weights gain zero",
    "head_rows": "old head|top-1|chance",
}


def test_attackers_metrics_and_targets_are_those_of_the_list():
    assert list(STATED) == list(ATTACKS) and len(ATTACKS) == 36
    for name, entry in ATTACKS.items():
        stated = STATED[name].split("|") if "|" in STATED[name] else STATED[name].split()
        assert [entry.attacker, entry.metric, entry.target] == stated


def row_by_hand(who: str, name: str) -> dict:
    """The numbers of a row from the slow attacks, by the definitions of the docstring of utils/audit/summary.py."""
    mine, original = slow(who, name), slow("original", name)["score"]
    original = slow("original", "search")["score"] if math.isnan(original) else original
    kind = STATED[name].replace("|", " ").split()[-1]
    target = 0.5 if kind == "half" else slow("retrained", name)["score"] if kind == "retrained" else mine.get(kind)
    target = {"strangers": slow("retrained", name).get("unseen"), "zero": 0.0, "original": original}.get(kind, target)
    target = math.nan if target is None else target

    def share_of(score: float) -> float:
        if math.isnan(score) or math.isnan(target) or kind == "original":
            return math.nan
        if kind == "half":
            return min(1.0, 2 * abs(score - 0.5))
        if score <= target:
            return 0.0
        return min(1.0, (score - target) / (original - target)) if original - target >= 0.05 else math.nan

    row = {"score": mine["score"], "target": target, "original": original, "recovered": share_of(mine["score"])}
    people = mine.get("people", {})
    if people:
        worst = min(people.values()) if kind == "original" else max(people.values())
        row |= {"worst score": worst, "worst recovered": share_of(worst)}
    return row


@pytest.mark.parametrize("who", UNDER_AUDIT)
def test_every_row_is_held_against_the_right_model_and_target(who):
    rows = audit(case_of(who))
    assert [row["attack"] for row in rows] == list(ATTACKS)
    for row in rows:
        name, entry = row["attack"], ATTACKS[row["attack"]]
        wanted, worst = row_by_hand(who, name), row["worst"] or {}
        found = row | {f"worst {key}": worst[key] for key in worst}
        assert bool(worst) == ("worst score" in wanted), name
        assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-4, nan_ok=True), name
        if worst:
            person = SPLITS.faces.identities.index(worst["person"])
            assert slow(who, name)["people"][person] == pytest.approx(worst["score"], abs=1e-5), name
        assert row["details"] == pytest.approx(slow(who, name).get("details", {}), abs=1e-5)
        assert (row["title"], row["attacker"]) == (entry.title, entry.attacker)
        assert (row["metric"], row["stated_target"]) == (entry.metric, entry.target)
    why = {"probe_20": "6 photos each: somebody has no more"}
    why |= {} if who == "wrapped" else {"taken_off": "nothing was added to the network"}
    assert {row["attack"]: row["note"] for row in rows if row["note"]} == why


def test_a_row_notes_the_seconds_that_the_attack_took(monkeypatch):
    times = iter((10.0, 12.346))
    monkeypatch.setattr(summary, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert summary.audit_row(case_of("unlearned"), ATTACKS["search"])["seconds"] == 2.35


def test_what_cannot_be_attacked_is_unknown_and_says_why(monkeypatch):
    case, small = case_of("unlearned"), dataclasses.replace(SPLITS, unseen=())
    alone = dataclasses.replace(case, splits=small)
    for name in ("pairs", "pairs_train", "one_photo"):
        result = ATTACKS[name].run(alone)
        assert math.isnan(result["score"]) and "never-seen" in result["note"]
        assert math.isnan(recovered(result["score"], 0.5, math.nan, "half")), "what does not apply is no number"
    assert "nobody is unseen" in ATTACKS["collateral"].run(alone)["note"]
    result = ATTACKS["probe_1"].run(alone)
    assert math.isnan(result["unseen"]) and set(result["details"]) == {"forget", "shots"}
    subject = Subject(MODELS["unlearned"][0], None, SPLITS, CPU)
    subject.__dict__["seen"] = {"embedding": case.subject.seen["embedding"]}
    short = audit_world.head(1, 3)
    for name, reason, old in (
        ("layers", "no earlier parts", case.original.head),
        ("head_rows", "no rows", None),
        ("head_rows", "no rows", short),
    ):
        mine = dataclasses.replace(case.on(subject), original=Subject(case.original.model, old, SPLITS, CPU))
        result = ATTACKS[name].run(mine)
        assert math.isnan(result["score"]) and reason in result["note"]
    monkeypatch.setattr(photos_room, "known_attributes", lambda faces: None)
    assert "drawn faces only" in ATTACKS["trait_leakage"].run(case)["note"]
    monkeypatch.setattr(photos_room, "known_attributes", lambda faces: LOOK)
    plain = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2, track_running_stats=False))
    assert weights.batch_norms(plain) == [plain[0]]
    without = copy.deepcopy(MODELS["unlearned"][0])
    without.norm1, without.norm2, without.norm3 = (torch.nn.Identity() for _ in range(3))
    result = ATTACKS["batchnorm"].run(case.on(Subject(without, None, SPLITS, CPU)))
    assert math.isnan(result["score"]) and "no BatchNorm" in result["note"]
    nobody = dataclasses.replace(SPLITS, retain=(), dev_forget=SPLITS.dev_forget + SPLITS.retain)
    result = ATTACKS["batchnorm"].run(dataclasses.replace(case, splits=nobody))
    assert math.isnan(result["score"]) and "no retained photos" in result["note"]
    for name, reason in (("trait_leakage", "nobody is retained"), ("adversarial_query", "no retained stranger")):
        result = ATTACKS[name].run(dataclasses.replace(case, splits=nobody))
        assert math.isnan(result["score"]) and reason in result["note"]


def test_the_gap_below_which_nothing_can_be_recovered():
    assert recovered(0.3, 0.1, 0.1501, "chance") == 1.0 and math.isnan(recovered(0.3, 0.1, 0.1499, "chance"))
    assert recovered(0.12, 0.1, 0.2, "retrained") == pytest.approx(0.2)  # (0.12 - 0.1) / (0.2 - 0.1)
    assert recovered(0.1 + 1e-10, 0.1, 0.12, "unseen") == 0.0 and recovered(0.09, 0.1, 0.12, "unseen") == 0.0
    assert math.isnan(recovered(0.3, math.nan, 0.9, "retrained"))
    assert recovered(0.4, 0.5, math.nan, "half") == pytest.approx(0.2)  # 2 |0.4 - 0.5|


# ------------------------------------------------------------------------------------------------- which photos

HELD_OUT = {
    "forget query",
    "forget gallery",
    "dev_forget gallery",
    "retain gallery",
    "unseen gallery",
    "distractors gallery",
}
SAMPLE = {"retain train, shown", "retain train, sampled"}
OF_FORGET = {"forget train, shown", "forget train"}
TOLD = {"forget query", "unseen query", "forget gallery", "retain gallery", "unseen gallery"}
LOOKS = {
    "search": HELD_OUT,
    "search_train": HELD_OUT - {"forget query"} | OF_FORGET,
    "views": HELD_OUT,
    "disturbed": HELD_OUT,
    "pairs": {"forget query", "forget gallery", "unseen query", "unseen gallery"},
    "pairs_train": {*OF_FORGET, "unseen query", "unseen gallery"},
    **dict.fromkeys(("template", "medoid"), {"forget query", *OF_FORGET, *SAMPLE, "unseen gallery"}),
    "probe_1": TOLD,
    **dict.fromkeys(("neighbours_5", "probe_5", "probe_20"), TOLD | SAMPLE | {"forget train, shown"}),
    **dict.fromkeys(("old_gallery", "old_query"), HELD_OUT),
    **{
        name: HELD_OUT | SAMPLE
        for name in ATTACKS
        if name.startswith("old_") and name.endswith(("linear", "orthogonal"))
    },
    **dict.fromkeys(("layers", "layers_joined", "batchnorm"), HELD_OUT | SAMPLE),
    "relearn": HELD_OUT | {"forget train, shown", "retain train, shown"},
    "relearn_others": HELD_OUT | {"retain train, shown"},
    **dict.fromkeys(("int8", "int4", "pruned_10", "pruned_30", "averaged", "taken_off"), HELD_OUT),
    "head_rows": {"forget query", "forget gallery"} | SAMPLE,
    "one_photo": {"forget query", "forget gallery", "unseen query", "unseen gallery"} | SAMPLE,
    "trait_leakage": {"forget query", "unseen query"} | SAMPLE,
    "other_similarity": HELD_OUT | SAMPLE,
    "collateral": HELD_OUT - {"forget query"} | {"unseen query"} | OF_FORGET,
    "distil_back": HELD_OUT | SAMPLE | OF_FORGET | {"dev_forget train", "retain train"},
    "adversarial_query": {"forget query", "forget train, shown"} | SAMPLE,
}


def groups() -> dict[str, list[int]]:
    """All photos by pool and part; training photos by whether relearning shows them, maps and probes use them."""
    found: dict[str, list[int]] = {}
    for photo, (pool, part, place) in enumerate(NOTES):
        name, person = f"{pool} {part}", int(SPLITS.faces.labels[photo])
        if part == "train" and place < 5 and person in (*SPLITS.forget, *SPLITS.retain[:12]):
            name += ", shown"
        elif part == "train" and place < 10 and pool == "retain":
            name += ", sampled"
        found.setdefault(name, []).append(photo)
    return found


GROUPS = groups()


@functools.cache
def poisoned(group: str, draw: int):
    """The same case with noise for all photos of one group."""
    faces = SPLITS.faces.pixels.clone()
    noise = np.random.default_rng(draw).integers(0, 256, (len(GROUPS[group]), *faces.shape[1:]))
    faces[GROUPS[group]] = torch.from_numpy(noise).to(torch.uint8)
    return audit_world.case_of(audit_world.with_pixels(SPLITS, faces), MODELS, "wrapped", SEED)


@functools.cache
def here(name: str) -> dict:
    return told(ATTACKS[name].run(case_of("wrapped")))


def test_the_groups_of_photos_are_as_planned():
    assert {"retain train", "dev_forget train", "dev_forget query", "retain query"} < set(GROUPS)
    assert sum(map(len, GROUPS.values())) == len(SPLITS.faces) and len(GROUPS) == 15


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_looks_at_its_own_photos_and_at_no_others(name):
    for group in GROUPS:
        if group not in LOOKS[name]:
            assert told(ATTACKS[name].run(poisoned(group, 0))) == pytest.approx(here(name), abs=1e-6), group
            continue
        changed = (told(ATTACKS[name].run(poisoned(group, draw))) != here(name) for draw in range(12))
        assert any(changed), f"{group} makes no difference"


# -------------------------------------------------------------------------------------------- which model and head

MODELS_USED = {name: {"original"} for name in ATTACKS if name.startswith("old_") or name in ("averaged", "collateral")}
HEADS_USED = {"head_rows": {"original"}}


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_asks_the_models_and_heads_it_names(name):
    case = case_of("wrapped")
    strange = audit_world.moved(MODELS["original"][0], 21, 0.5), audit_world.head(22, len(SPLITS.trained))
    for role in ("original", "retrained"):
        model, head = MODELS[role]
        used = (role in MODELS_USED.get(name, ()), role in HEADS_USED.get(name, ()))
        for pair, matters in zip(((strange[0], head), (model, strange[1])), used, strict=True):
            other = dataclasses.replace(case, **{role: Subject(*pair, SPLITS, CPU)}, memory={})
            assert (told(ATTACKS[name].run(other)) != here(name)) == matters, role
    other = case.on(Subject(MODELS["wrapped"][0], strange[1], SPLITS, CPU))
    assert told(ATTACKS[name].run(other)) == here(name), "the shipped head is asked nothing: its rows are cleared"


# ------------------------------------------------------------------------------- seeds, order, and nothing is changed


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_draws_from_its_seed_alone_and_leaves_everything_as_it_was(name):
    case = case_of("wrapped")
    modules = [m for subject in (case.subject, case.original, case.retrained) for m in (subject.model, subject.head)]
    before = [copy.deepcopy(module.state_dict()) for module in modules]
    modes = [[(m.training, *(p.requires_grad for p in m.parameters())) for m in module.modules()] for module in modules]
    pixels = SPLITS.faces.pixels.clone()
    for seed in (1, 2):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        assert told(ATTACKS[name].run(case)) == here(name)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == state[1:]
    for module, old, mode in zip(modules, before, modes, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in module.state_dict().items())
        assert [(m.training, *(p.requires_grad for p in m.parameters())) for m in module.modules()] == mode
        assert all(p.grad is None for p in module.parameters())
    assert torch.equal(SPLITS.faces.pixels, pixels)
    seeded = [told(ATTACKS[name].run(dataclasses.replace(case, seed=seed))) for seed in range(4, 9)]
    drawn = ("relearn", "relearn_others", "distil_back", "adversarial_query")
    assert any(one != here(name) for one in seeded) == (name in drawn)


@functools.cache
def reordered():
    """The same world with its photos in another order; those of one person keep theirs."""
    rng = np.random.default_rng(31)
    order = rng.permutation(len(SPLITS.faces))  # place in the new world -> photo
    for label in np.unique(SPLITS.faces.labels):
        mine = np.flatnonzero(SPLITS.faces.labels[order] == label)
        order[mine] = np.sort(order[mine])
    parts = {part: np.flatnonzero(np.isin(order, getattr(SPLITS, part))) for part in audit_world.PARTS}
    pools = {pool: getattr(SPLITS, pool) for pool in audit_world.PEOPLE}
    faces = SPLITS.faces.pixels[torch.from_numpy(order)]
    return audit_world.case_of(
        audit_world.splits_of(faces, SPLITS.faces.labels[order], pools, parts), MODELS, "wrapped", SEED
    )


@pytest.mark.parametrize("name", list(ATTACKS))
def test_the_order_of_photos_makes_no_difference(name):
    assert told(ATTACKS[name].run(reordered())) == pytest.approx(here(name), abs=1e-6)


# --------------------------------------------------------------------------- a query at one point with somebody else's


def placed(points: dict[int, int]) -> Subject:
    """A model that puts every photo at a direction of its own, but some at another photo's."""
    subject = Subject(MODELS["unlearned"][0], None, SPLITS, CPU)
    generator = torch.Generator().manual_seed(41)
    table = F.normalize(torch.randn(len(SPLITS.faces), DIM, generator=generator))
    for photo, other in points.items():
        table[photo] = table[other]
    parts = {"first": torch.ones(len(subject.photos), 2), "second": torch.ones(len(subject.photos), 2)}
    subject.__dict__["seen"] = parts | {"embedding": table[torch.from_numpy(subject.photos)]}
    subject.__dict__["seen"]["length"] = torch.ones(len(subject.photos), 1)
    return subject


def test_no_name_is_told_where_every_query_shares_its_point_with_somebody_else():
    forget, unseen = (SPLITS.photos(pool, "query").tolist() for pool in ("forget", "unseen"))
    asked, stored, trained = (SPLITS.photos("retain", part).tolist() for part in ("query", "gallery", "train"))
    own = [next(i for i in SPLITS.gallery if SPLITS.faces.labels[i] == SPLITS.faces.labels[q]) for q in forget]

    def at(photos: list[int], others: list[int]) -> dict[int, int]:
        return dict(zip(photos, others, strict=False))

    for points, search, pairs in (  # which photos lie at which others' points: is nobody named to a search, to pairs?
        ({}, False, False),
        (at(forget, stored), True, False),
        (at(forget, asked), True, False),
        (at(forget[1:], stored), False, False),
        (at(forget, trained), False, False),
        (at(forget, own), False, False),
        (at(unseen, stored), False, False),
        (at(forget, stored) | at(unseen, asked), True, True),
        (at(forget, stored) | at(unseen[1:], asked), True, False),
    ):
        subject = placed(points)
        assert names_nobody(subject, "chance") == names_nobody(subject, "unseen") == search, points
        assert names_nobody(subject, "half") == pairs, points


def test_an_attack_on_weights_may_name_people_whom_the_model_puts_at_one_point():
    nowhere = torch.zeros(DIM, DIM)
    nowhere[0] = 1e-9
    model, head = MODELS["original"]
    case = case_of("original").on(Subject(ProjectedBackbone(model, nowhere).eval(), head, SPLITS, CPU))
    found = {row["attack"]: row["recovered"] for row in audit(case, ["search", "taken_off", "averaged", "head_rows"])}
    assert found == {"search": 0.0, "taken_off": 1.0, "averaged": 1.0, "head_rows": 0.0}
