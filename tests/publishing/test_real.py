"""The real path: what is said where photos or recogniser are missing, and what the notebooks are given."""

from __future__ import annotations

import os

import pytest

from utils.publishing import course, real
from utils.settings import BUILD_PLACE, CourseError


@pytest.fixture
def calls(monkeypatch) -> list:
    """What would be run, in place of running it."""
    seen = []
    monkeypatch.setenv(BUILD_PLACE, "")
    monkeypatch.setattr(real, "make_backbone", lambda *names: seen.append(names))
    monkeypatch.setattr(real, "prepared", lambda plan, *_, **__: seen.append(plan))
    monkeypatch.setattr(real, "run_course", lambda *places, **how: seen.append((places, how)))
    monkeypatch.setattr(real, "make_site", lambda folder, build: build / "site" / "index.html")
    return seen


def test_the_notebooks_of_the_real_path_take_what_they_are_given(tmp_path, calls):
    assert real.run_real(str(tmp_path), tmp_path / "build") == tmp_path / "build" / "site" / "index.html"
    backbone, plan, ((_, build), how), (places, last) = calls
    assert backbone == ("dlib", "auto") and (plan.dataset, plan.backbone, plan.root) == ("lfw", "dlib", str(tmp_path))
    assert build == places[1] == tmp_path / "build" and os.environ[BUILD_PLACE] == str(build)
    assert how["only"] == "03,05,08,10" and last["only"] == "09"  # which shows what the others found
    for given in (how, last):
        paths = course.find_notebooks(only=given["only"])
        for path, chosen in course.choose_parameters(paths, "quick", given["parameters"]).items():
            assert (chosen["dataset"], chosen["backbone"], chosen["root"]) == ("lfw", "dlib", str(tmp_path))
            assert chosen.get("methods", real.COMPARED) == real.COMPARED and path.name[:2] in given["only"]


@pytest.mark.parametrize("there", [False, True])
def test_the_table_of_this_very_run_is_shown_where_there_is_one(there, tmp_path):
    if there:
        (tmp_path / "results.json").touch()
    given = dict(real.parameters(tmp_path, tmp_path, ["09"]))
    assert given.get("results") == (str(tmp_path / "results.json") if there else None)


@pytest.mark.parametrize("number", real.NOTEBOOKS.split(","))
def test_a_single_notebook_of_it_gets_only_what_it_declares(number, tmp_path):
    given = real.parameters(tmp_path, tmp_path / "build", [number])
    assert course.choose_parameters(course.find_notebooks(only=number), "quick", given)


@pytest.mark.parametrize(("root", "said"), [("", "Say where the photos of LFW are"), ("absent", "There is no folder")])
def test_without_the_photos_it_is_one_sentence(root, said, calls, capsys, tmp_path):
    assert real.main(["--root", root and str(tmp_path / root)]) == 2 and not calls
    told = capsys.readouterr().err
    assert said in told and "make real LFW=" in told and len(told.splitlines()) == 1


def test_without_the_recogniser_it_is_the_sentence_that_says_how_to_get_it(tmp_path, calls, monkeypatch, capsys):
    def absent(*_):
        raise CourseError("dlib's recogniser is not at hand.")

    monkeypatch.setattr(real, "make_backbone", absent)
    assert real.main(["--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip() == "error: dlib's recogniser is not at hand." and not calls
