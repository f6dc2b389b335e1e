"""The files that describe the environment agree with each other, and no known trap reaches a user."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from utils.settings import REPO_ROOT, check_environment

PYTHONS = ("3.11", "3.12", "3.13")


def read(name: str) -> str:
    return (REPO_ROOT / name).read_text(encoding="utf-8")


def listed(name: str) -> dict[str, Requirement]:
    lines = (line.split("#")[0].strip() for line in read(name).splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def pinned_version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


def pyproject() -> dict:
    return tomllib.loads(read("pyproject.toml"))


# ---- requirements, constraints, conda, pyproject -------------------------------------------------------------------


def test_every_requirement_is_pinned_within_its_range():
    pins = listed("constraints.txt")
    for name, requirement in listed("requirements.txt").items():
        assert name in pins, f"{name} has no tested version in constraints.txt"
        assert requirement.specifier.contains(pinned_version(pins[name])), f"{name}: the tested version is out of range"


def test_every_requirement_says_who_needs_it():
    lines = [line for line in read("requirements.txt").splitlines() if line and not line.startswith("#")]
    assert all(re.search(r"\S +# \w", line) for line in lines)


def test_linux_only_pins_are_harmless_elsewhere():
    for name, pin in listed("constraints.txt").items():
        linux_only = name.startswith(("nvidia-", "cuda-")) or name == "triton"
        assert (pin.marker is not None) == linux_only, name
        assert not linux_only or not pin.marker.evaluate({"sys_platform": "darwin"})


def test_the_installed_set_is_the_tested_set():
    if Path(sys.prefix) != REPO_ROOT / ".venv" and not os.environ.get("CI"):
        pytest.skip("only .venv, which make builds, promises the tested versions")
    pins = listed("constraints.txt")
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    wrong = {
        name: f"{version}, tested {pinned_version(pins[name])}"
        for name, version in installed.items()
        if name in pins and version.split("+")[0] != pinned_version(pins[name])
    }
    missing = set(listed("requirements.txt")) - set(installed)
    assert not wrong and not missing
    assert set(installed) <= {*pins, "pip", "face-identity-unlearning"}, "constraints.txt is not the whole set"


def test_conda_installs_python_and_then_the_same_requirements():
    environment = yaml.safe_load(read("environment.yml"))
    *packages, pip_part = environment["dependencies"]
    assert set(environment) == {"name", "channels", "dependencies"}
    assert packages == [f"python{pyproject()['project']['requires-python']}", "pip"]
    assert pip_part == {"pip": ["-r requirements.txt"]}


def test_declared_pythons_agree_everywhere():
    declared = SpecifierSet(pyproject()["project"]["requires-python"])
    accepted = [f"3.{minor}" for minor in range(8, 20) if declared.contains(f"3.{minor}.0")]
    named = [c.split(" :: ")[-1] for c in pyproject()["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert tuple(accepted) == tuple(named) == PYTHONS
    assert read("Makefile").count("(3, 11) <= sys.version_info[:2] <= (3, 13)") == 2
    assert set(workflow["jobs"]["course"]["strategy"]["matrix"]["python"]) <= set(PYTHONS)


def test_the_package_names_all_its_folders():
    folders = sorted(str(init.parent.relative_to(REPO_ROOT)) for init in (REPO_ROOT / "utils").rglob("__init__.py"))
    assert [folder.replace(os.sep, ".") for folder in folders] == sorted(pyproject()["tool"]["setuptools"]["packages"])


# ---- traps ---------------------------------------------------------------------------------------------------------


def test_facenet_pytorch_cannot_downgrade_torch():
    assert str(listed("requirements.txt")["facenet-pytorch"].specifier) == "==2.5.3"


def test_torch_is_never_the_cpu_only_build_without_a_torchvision():
    assert not listed("requirements.txt")["torch"].specifier.contains("2.3")
    assert pinned_version(listed("constraints.txt")["torch"]) != "2.13.0"


def test_torch_and_torchvision_work_together():
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 20.0, 30.0, 30.0]])
    assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]


def test_the_environment_check_names_the_versions():
    assert check_environment()["torch"] == importlib.metadata.version("torch")


def test_utils_imports_torch_before_anything_else():
    imports = [n for n in ast.parse(read("utils/__init__.py")).body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert isinstance(imports[0], ast.Import) and imports[0].names[0].name == "torch"


def test_guards_named_in_environment_md_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", read("docs/environment.md"))
    assert len(named) >= 5
    for file, function in named:
        assert f"def {function}(" in read(file), f"{file}::{function}"


def test_style():
    result = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "utils", "tests", "notebooks"],
        cwd=REPO_ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


# ---- make ----------------------------------------------------------------------------------------------------------

FAKE_PYTHON = """#!/bin/sh
echo "$*" >> calls.txt
case "$*" in
  *"--index-url"*) exit ${TORCH_CODE:-0};;
  *"pip install"*) exit ${PIP_CODE:-0};;
  "-c import sys, pip"*) exit ${WHOLE_CODE:-0};;
  "-c import sys, venv"*) exit ${SUITS_CODE:-0};;
  "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
esac
"""


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A copy of the set-up files with a stand-in for Python that records how it is called."""
    for name in ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(REPO_ROOT / name, tmp_path / name)
    for python in (tmp_path / "python", tmp_path / ".venv/bin/python"):
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(FAKE_PYTHON)
        python.chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
    """Run make; return its exit code, what it said, and the Python calls it made."""
    (folder / "calls.txt").unlink(missing_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", f"PYTHON={folder}/python", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**clean, **environment})
    calls = (folder / "calls.txt").read_text().splitlines() if (folder / "calls.txt").exists() else []
    return result.returncode, result.stdout + result.stderr, calls


def test_a_finished_environment_is_used_at_once(workshop: Path):
    (workshop / ".venv/.installed").touch()
    code, _, calls = make(workshop, "test")
    assert code == 0 and len(calls) == 1 and calls[0].startswith("-m pytest")


def test_tests_run_side_by_side_a_thread_each_and_whole_files_together(workshop: Path):
    (workshop / ".venv/.installed").touch()
    for jobs, threads in (("3", "OMP_NUM_THREADS=1 "), ("1", "")):
        said = make(workshop, "-n", "test", f"JOBS={jobs}")[1]
        assert said.startswith(f"{threads}.venv/bin/python -m pytest ") and f" -n {jobs} --dist loadfile" in said


def test_an_unfinished_installation_is_taken_up_again(workshop: Path):
    code, _, calls = make(workshop, "run")
    assert code == 0 and (workshop / ".venv/.installed").exists()
    assert any("-r requirements.txt -c constraints.txt" in call for call in calls)
    assert not any(call.startswith("-m venv") for call in calls)
    assert calls[-1] == "-m utils.course --profile quick --jobs 2"


def test_changed_requirements_are_installed(workshop: Path):
    (workshop / ".venv/.installed").touch()
    os.utime(workshop / ".venv/.installed", (1, 1))
    assert any("pip install" in call for call in make(workshop, "run")[2])


def test_a_broken_environment_is_built_afresh(workshop: Path):
    code, said, calls = make(workshop, "run", WHOLE_CODE="1")
    assert code == 0 and "Building .venv" in said
    assert any(call.startswith("-m venv .venv") for call in calls)


def test_a_failed_installation_says_so_and_leaves_no_stamp(workshop: Path):
    code, said, _ = make(workshop, "run", PIP_CODE="1")
    assert code != 0 and "The installation did not finish" in said
    assert not (workshop / ".venv/.installed").exists()


def test_a_missing_python_is_one_sentence(workshop: Path):
    code, said, calls = make(workshop, "run", WHOLE_CODE="1", SUITS_CODE="1")
    assert code != 0 and "No usable Python 3.11, 3.12 or 3.13" in said
    assert not any("pip install" in call for call in calls)


def test_the_cpu_build_comes_first_from_its_own_index_and_is_remembered(workshop: Path):
    index = "https://download.pytorch.org/whl/cpu"
    for once in (True, False):  # the second time it is there
        code, said, calls = make(workshop, "run", "TORCH=cpu")
        assert code == 0, said
        pips = [call for call in calls if "pip install" in call]
        assert (workshop / ".venv/.installed").read_text() == "cpu\n"
        if once:
            assert f"--index-url {index} torch torchvision" in pips[0] and "-c constraints.txt" in pips[0]
            assert "-r requirements.txt" in pips[1] and index not in pips[1]
    assert pips == []
    assert not any("pip install" in call for call in make(workshop, "test")[2])
    os.utime(workshop / ".venv/.installed", (1, 1))  # changed requirements keep the build
    assert any(f"--index-url {index}" in call for call in make(workshop, "test")[2])


def test_an_environment_with_pypis_torch_is_changed_when_asked_for_and_only_then(workshop: Path):
    assert not any("--index-url" in call for call in make(workshop, "run")[2])
    calls = make(workshop, "lab", "TORCH=cpu", "TORCH_INDEX=file:///mirror")[2]
    assert any("--index-url file:///mirror torch torchvision" in call for call in calls)


def test_an_index_without_the_cpu_build_is_one_sentence(workshop: Path):
    code, said, calls = make(workshop, "run", "TORCH=cpu", TORCH_CODE="1")
    assert code != 0 and "could not be had from https://download.pytorch.org/whl/cpu" in said
    assert not (workshop / ".venv/.installed").exists() and not any("-r requirements.txt" in call for call in calls)
    assert make(workshop, "run")[0] == 0  # nothing is broken
    code, said, calls = make(workshop, "run", "TORCH=gpu")
    assert code != 0 and "TORCH is 'gpu'; the one choice is TORCH=cpu" in said and calls == []


def test_nothing_is_ever_installed_into_the_systems_python():
    """A .venv that lost pyvenv.cfg runs the system's Python: the probe must refuse it, and so must pip."""
    probe = re.search(r"WHOLE +:= ((?:.*\\\n)*.*)", read("Makefile"))[1].replace("\\\n", " ")
    outside = subprocess.run([sys._base_executable, "-I", "-c", probe], capture_output=True, text=True)
    assert outside.returncode == 1 and not outside.stderr
    if sys.prefix != sys.base_prefix:
        assert subprocess.run([sys.executable, "-c", probe]).returncode == 0
    assert "sys.prefix != sys.base_prefix" in probe
    assert re.search(r"^export PIP_REQUIRE_VIRTUALENV := 1$", read("Makefile"), re.MULTILINE)


def test_help_lists_every_target():
    targets = set(re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[1].split())
    said = subprocess.run(["make", "-s", "help"], cwd=REPO_ROOT, capture_output=True, text=True).stdout
    assert targets == set(re.findall(r"^  make (\w+) ", said, re.MULTILINE))


# ---- contributors, licence, citation -------------------------------------------------------------------------------


def test_ci_runs_the_readers_commands():
    assert os.access(REPO_ROOT / ".ci/run", os.X_OK)
    assert read(".ci/run").splitlines()[1:] == ['cd "$(dirname "$0")/.." && exec make test']
    steps = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["course"]["steps"]
    assert [step["run"].split()[:2] for step in steps if "run" in step] == [["make", "run"], ["make", "test"]]
    assert steps[-1]["with"]["path"] == "build/"


def test_the_paper_is_cited():
    citation = yaml.safe_load(read("CITATION.cff"))
    paper = citation["preferred-citation"]
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and citation["license"] == "MIT"
    assert paper["authors"] == [{"family-names": "Zakharov"}] and paper["year"] == 2025
    assert "2512.13317" in paper["url"] and paper["title"].startswith("Face Identity Unlearning")
    assert read("LICENSE").startswith("MIT License")
