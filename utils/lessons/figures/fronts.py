"""Fronts: how well methods hide, against what strangers keep; every point is named, each class has its own front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ...unlearning.registry import METHODS
from .base import finished, gridded, words
from .palette import CHANCE, FRONT, INK, METRICS, ORIGINAL, PAPER, RETRAIN

CLASSES = {  # marker, line of the front, what a legend says
    "reference": ("s", "", "yardstick"),
    "weights": ("o", "-", "changes the weights"),
    "wrapper": ("^", "--", "a wrapper around the model"),
}
YARDSTICKS = {"original": ORIGINAL, "retrain": RETRAIN}
LINE = 0.19  # inches from one name to the next


def pareto(results: Mapping[str, Mapping], metric: str = "map", title: str = "Held-out photos") -> Figure:
    """Show forget against unseen scores, {method: evaluate(...)}, with a front for each class. Notebook 08."""
    points = {name: (scores["unseen"][metric], scores["forget"][metric]) for name, scores in results.items()}
    chance = np.mean([scores["chance"][metric] for scores in results.values()])
    return front_figure(points, METRICS.get(metric, metric), title, chance)


def front_of(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of points (more is better, less is better) that no other beats, from the lowest up."""
    front: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][1], -points[name][0])):
        if not front or points[name][0] > points[front[-1]][0] or points[name] == points[front[-1]]:
            front.append(name)
    return front


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return heights moved as little as possible (least squares) to lie `gap` apart from `low` to `high`, in order."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[list[float]] = []  # names that touch: where the first of them would lie for each one's sake
    for rank, i in enumerate(order):
        groups.append([heights[i] - rank * gap])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    starts = np.repeat([np.mean(group) for group in groups], [len(group) for group in groups])
    placed = np.clip(starts, low, high - gap * (len(order) - 1)) + gap * np.arange(len(order))
    return placed[np.argsort(order)].tolist()


def class_of(name: str) -> tuple[str, str]:
    """Return a method's class and title, in which "esc (epochs 8)" keeps its note; a stranger changes weights."""
    plain, bracket, note = name.partition(" (")
    known = METHODS.get(plain)
    return (known.kind, known.title + bracket + note) if known else ("weights", name)


def front_figure(
    points: Mapping[str, tuple[float, float]], score: str = "mAP", title: str = "", chance: float | None = None
) -> Figure:
    """Show methods at (unseen, forget) shares, names at the right; a line joins what no other of a class beats."""
    names = sorted(points, key=lambda name: (points[name][1], points[name][0]))
    height = max(3.3, LINE * len(names))
    fig = Figure(figsize=(5.2, height + 1.6))
    ax = fig.add_axes((0.12, 1.1 / (height + 1.6), 0.43, height / (height + 1.6)))
    left = min(np.floor(20 * x) / 20 for x, _ in points.values())
    ax.set(xlim=(left - 0.01, 1.02), ylim=(-0.02, 1.02), xlabel=f"unseen {score} (higher is better)")
    ax.set_ylabel(f"forget {score} (lower is better)")
    ax.spines.left.set_bounds(0, 1)  # nothing is beyond 100 %
    ax.spines.bottom.set_bounds(left, 1)
    colours = dict.fromkeys(names, CHANCE) | YARDSTICKS
    for kind, (marker, line, label) in CLASSES.items():
        members = {name: points[name] for name in names if class_of(name)[0] == kind}
        front = front_of(members) if line else []
        ax.plot(*np.reshape([points[name] for name in front], (-1, 2)).T, line, color=FRONT, alpha=0.55, linewidth=2)
        colours |= dict.fromkeys(front, FRONT)
        shown = sorted(members, key=front.__contains__)  # the front above its class, each class above the yardsticks
        look = dict(c=[colours[name] for name in shown], marker=marker, edgecolors=PAPER, linewidths=0.7, zorder=3)
        ax.scatter(*np.reshape([points[name] for name in shown], (-1, 2)).T, 50 if line else 90, clip_on=False, **look)
        if members:
            ax.scatter([], [], 50, color=CHANCE, marker=marker, label=label)
    heights = spread([points[name][1] for name in names], LINE / height * 1.04, -0.02, 1.02)
    for name, beside in zip(names, heights, strict=True):
        leader = dict(arrowstyle="-", color=colours[name], linewidth=0.6, alpha=0.8, shrinkA=2, shrinkB=0)
        weight = "bold" if colours[name] == FRONT else "normal"
        at = dict(xytext=(1.05, beside), textcoords=ax.get_yaxis_transform(), va="center", fontsize=9.5, color=INK)
        said = words(class_of(name)[1], 32)
        ax.annotate(said, points[name], arrowprops=leader | {"relpos": (0, 0.5)}, fontweight=weight, **at)
    ax.plot([], [], color=FRONT, label="front: nobody of the class beats it")
    if chance is not None:
        ax.axhline(chance, 0, 0.1, color=CHANCE, linestyle=":", linewidth=1.2, zorder=1, label="chance")
    ax.tick_params(labelsize=9)
    gridded(ax, percent="xy")
    fig.legend(*ax.get_legend_handles_labels(), loc="lower left", ncols=2, fontsize=9)
    return finished(fig, title, x=0.02, ha="left", fontsize=12, fontweight="bold")
