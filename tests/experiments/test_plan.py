"""The flags of every command come from one place, and so does what a plan opens."""

from __future__ import annotations

import pytest

from utils.experiments import plan as room
from utils.experiments.benchmark import run_identity
from utils.experiments.plan import FLAGS, Plan, check_plan, open_splits, plan_parser, plans_of, prepared
from utils.experiments.results import is_row
from utils.settings import CourseError


def test_a_command_without_flags_asks_for_the_default_plan():
    assert plans_of(plan_parser("x", "", FLAGS).parse_args([])) == [Plan()]


def test_every_flag_reaches_its_field_and_each_number_is_a_plan_of_its_own():
    text = "--dataset lfw --root here --dev --seed 3 --image-size 80 --set esc.directions=2 --forget 1,5"
    plans = plans_of(plan_parser("x", "", FLAGS).parse_args([*text.split(), "--methods", "esc,salun"]))
    options = {"methods": ("esc", "salun"), "options": (("esc", "directions", 2),)}
    wanted = Plan(dataset="lfw", root="here", dev=True, seed=3, image_size=80, forget=1, **options)
    assert plans[0] == wanted and [plan.forget for plan in plans] == [1, 5]


def test_a_command_has_its_own_defaults_and_only_the_flags_it_names():
    parser = plan_parser("x", "", ("methods", "seeds"), methods=("esc", "salun"), seeds=3)
    assert vars(parser.parse_args([])) == {"methods": "esc,salun", "seeds": 3}
    with pytest.raises(SystemExit):
        parser.parse_args(["--quiet"])


def test_people_are_drawn_or_named_not_both():
    with pytest.raises(SystemExit):
        plan_parser("x", "", FLAGS).parse_args(["--forget", "1", "--forget-ids", "Ann"])
    with pytest.raises(CourseError, match="--sizes wants a number"):
        room.parse_numbers("1,x", "--sizes")


def test_data_and_model_of_a_seed_are_opened_once(monkeypatch, tiny_faces):
    opened, loaded, trained = {}, [], []
    monkeypatch.setattr(room, "load_faces", lambda *_, **__: loaded.append(1) or tiny_faces)
    monkeypatch.setattr(room, "load_or_train", lambda *_, **__: trained.append(1) or object())
    plan = Plan(forget=2)
    first, again = prepared(plan, 0, opened, False), prepared(plan, 0, opened, False)
    assert first[1] is again[1] and first[0].forget == again[0].forget and (len(loaded), len(trained)) == (1, 1)
    other = prepared(plan, 1, opened, False)
    assert other[0].forget != first[0].forget and (len(loaded), len(trained)) == (1, 2)


def test_the_share_to_hold_out_reaches_the_splits_and_is_part_of_a_runs_key(monkeypatch, tiny_faces):
    monkeypatch.setattr(room, "load_faces", lambda *_, **__: tiny_faces)
    plans = [Plan(forget=2), Plan(forget=2, held_out="fifth"), Plan(forget=2, held_out="half")]
    splits = [open_splits(plan, 0, {}, False) for plan in plans]
    assert [one.held_out for one in splits] == ["fifth", "fifth", "half"]
    keys = [run_identity(plan, one, "original", 0) for plan, one in zip(plans, splits, strict=True)]
    assert keys[0] == keys[1] != keys[2]
    stored = {field: value for field, value in keys[0].items() if field != "held_out"}  # as rows were before
    assert is_row(stored, keys[0]) and not is_row(stored, keys[2])
    with pytest.raises(CourseError, match="share to hold out 'third'"):
        check_plan(Plan(held_out="third"))
