"""Folders of few drawn people, and a quick way to run a notebook's cells on one of them."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from utils.audit import weights
from utils.faces.synthetic.dataset import synthetic_faces
from utils.lessons import session as session
from utils.settings import REPO_ROOT
from utils.unlearning import loop as frame

SOLUTIONS = REPO_ROOT / "notebooks" / "solutions"
CAPS = {"steps": 2, "epochs": 1, "forget_per_step": 8, "retain_per_step": 8, "blends_per_step": 8, "batch_size": 32}


def draw_folder(root: Path, people: int, photos: int) -> Path:
    """Write a folder of drawn people, one sub-folder each with so many photos, PNG and JPEG; return it."""
    faces, labels, names = synthetic_faces(people, 0, photos, 1, image_size=128, seed=3, progress=False, cached=False)
    for i, (face, label) in enumerate(zip(faces, labels.tolist(), strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        canvas = Image.new("RGB", (160, 160), (127, 127, 127))
        canvas.paste(Image.fromarray(face.permute(1, 2, 0).numpy()), (16, 16))
        canvas.save(folder / f"{i}.{'png' if i % 2 else 'jpg'}", quality=95)
    return root


def hurry(monkeypatch, build: Path) -> None:
    """Cut every method and attack to a step or two, and keep results in `build`."""
    make = frame.make_config

    def few(name: str, options: dict) -> object:
        config = make(name, options)
        caps = {key: min(getattr(config, key), most) for key, most in CAPS.items() if hasattr(config, key)}
        # at its own alpha a hardly trained network sends all photos to one point, where any order is right
        mild = {"alpha": 10 * config.alpha} if name == "ssd" else {}
        return dataclasses.replace(config, **caps, **mild)

    monkeypatch.setattr(frame, "make_config", few)
    monkeypatch.setattr(weights, "RELEARN_CHECKS", (0, 1))
    monkeypatch.setattr(weights, "DISTIL_STEPS", 1)
    defaults = session.open_session.__defaults__
    own = tuple(build / value.name if isinstance(value, Path) else value for value in defaults)
    monkeypatch.setattr(session.open_session, "__defaults__", own)


class Cell(NamedTuple):
    """A code cell that was just run: its id and source, all names so far, what it printed and what it showed."""

    id: str
    source: str
    names: dict
    printed: str
    shown: list


def run_notebook(number: str, watch: Callable[[Cell], None] | None = None, **parameters: object) -> dict:
    """Run the code cells of a notebook in one namespace, its parameters cell followed by these; return the names.

    After each cell `watch` is called.
    """
    cells = json.loads(next(SOLUTIONS.glob(f"{number}_*.ipynb")).read_text(encoding="utf-8"))["cells"]
    names: dict = {"__name__": "notebook"}
    for place, cell in enumerate(cells):
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and "setup" not in tags:
            source, printed, shown = "".join(cell["source"]), io.StringIO(), []
            with contextlib.redirect_stdout(printed):
                run_cell(source, names, f"notebook {number}, cell {place}", shown)
            names |= parameters if "parameters" in tags else {}
            print(printed.getvalue(), end="")
            if watch:
                watch(Cell(cell["id"], source, names, printed.getvalue(), shown))
    return names


def names_of(number: str, *ids: str) -> dict:
    """Run a few code cells of a notebook, by id, without a word, and return their names."""
    cells = json.loads(next(SOLUTIONS.glob(f"{number}_*.ipynb")).read_text(encoding="utf-8"))["cells"]
    names: dict = {"__name__": "notebook"}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            if cell["id"] in ids:
                exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    return names


def run_cell(source: str, names: dict, where: str, shown: list) -> None:
    """Run a cell, show its last value, and note in `shown` whatever is shown."""

    def display(value: object, **_: object) -> None:
        show(value)
        if value is not None:
            shown.append(value)

    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    names["display"] = display
    exec(compile(tree, where, "exec"), names)
    if last is not None and not source.rstrip().endswith(";"):
        display(eval(compile(ast.Expression(last.value), where, "eval"), names))
    elif last is not None:
        eval(compile(ast.Expression(last.value), where, "eval"), names)


def show(value: object) -> None:
    """Lay out and walk through a figure as a notebook would, without its pixels."""
    if isinstance(value, Figure):
        value.draw_without_rendering()
