"""Figures of what unlearning did: scores, histories, costs; fronts have a room of their own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike

from .base import (
    colour_of,
    finished,
    gridded,
    legend_below,
    lines_of,
    log_ticks,
    one,
    page,
    panels,
    row_of,
    share_histogram,
    words,
)
from .fronts import class_of
from .palette import (
    ACCENT,
    CHANCE,
    CYCLE,
    FORGET,
    HEAT,
    INK,
    MARKERS,
    METRICS,
    ORIGINAL,
    PAPER,
    PERCENT,
    POOLS,
    RETAIN,
    RETRAIN,
    TENS,
    UNSEEN,
    WRONG,
)
from .ranking import rank_edges

BETTER = {"forget": "lower is better", "unseen": "higher is better"}
HATCHES = {"forget": "", "retain": "//", "unseen": ".."}


def score_bars(results: Mapping[str, Mapping], title: str = "Held-out photos") -> Figure:
    """Show forget, retain and unseen scores with chance lines, {method: evaluate(...)}. Introduced in notebook 08."""
    fig = page(max(5.6, 1.35 * len(results) + 1.8), 6.2)
    axes = fig.subplots(2, 1, sharex=True)
    for ax, metric in zip(axes, ("r1", "map"), strict=True):
        for j, (pool, colour) in enumerate(POOLS.items()):
            heights = [scores[pool][metric] for scores in results.values()]
            places = np.arange(len(results)) + 0.27 * (j - 1)
            fill = dict(color=to_rgba(colour, 0.85), hatch=HATCHES[pool], edgecolor=PAPER)
            bars = ax.bar(places, heights, 0.25, label=pool, **fill)
            ax.bar_label(bars, [f"{100 * height:.0f}" for height in heights], fontsize=9, padding=2)
        for i, scores in enumerate(results.values()):
            ax.hlines(scores["chance"][metric], i - 0.45, i + 0.45, color=INK, linewidth=1.6, linestyle=":")
        ax.plot([], [], ":", color=INK, label="chance")
        ax.set(ylabel=METRICS[metric], ylim=(0, 1.12))
        gridded(ax, "y", "y")
    axes[-1].set_xticks(range(len(results)), [words(name).replace(" ", "\n") for name in results])
    legend_below(fig, axes[0], 4)
    return finished(fig, title)


def forgetting_panel(
    person_before: ArrayLike,
    person_after: ArrayLike,
    ranks_before: ArrayLike,
    ranks_after: ArrayLike,
    bars_before: Mapping[str, float],
    bars_after: Mapping[str, float],
    *,
    gallery_size: int,
    person: str = "",
    title: str = "",
) -> Figure:
    """Show cosines within one person (unit rows (n, d)), first right ranks of queries, and shares. Notebook 05."""
    fig = page(6.2, 5.6)
    top, bottom = fig.subfigures(2, 1, height_ratios=(1.05, 1))
    _cosine_squares(top, {"before": person_before, "after": person_after}, f"cosines: {words(person, 16)}")
    ranks, bars = bottom.subplots(1, 2)
    _rank_steps(ranks, np.asarray(ranks_before), np.asarray(ranks_after), gallery_size)
    _paired_bars(bars, bars_before, bars_after)
    return finished(fig, title, fontsize=12)


def _cosine_squares(fig: SubFigure, shown: Mapping[str, ArrayLike], label: str) -> None:
    axes = fig.subplots(1, len(shown))
    for ax, (name, points) in zip(axes, shown.items(), strict=True):
        points = np.asarray(points)
        drawn = ax.imshow(points @ points.T, vmin=-0.2, vmax=1, cmap=HEAT, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=10, loc="center")
    bar = fig.colorbar(drawn, ax=axes, location="right", shrink=0.85, aspect=16, ticks=[0, 0.5, 1], extend="min")
    bar.set_label(label, fontsize=10)


def _rank_steps(ax: Axes, before: np.ndarray, after: np.ndarray, last: int) -> None:
    edges = rank_edges(last)
    for values, name, colour, line in ((before, "before", ORIGINAL, "--"), (after, "after", FORGET, "-")):
        values = values[np.isfinite(values)]
        share_histogram(ax, values, edges, f"{name}: median {np.median(values):g}", colour, line, 1.5)
    ax.set(xscale="log", xlim=(0.5, last + 1), ylim=(0, 1.03))
    log_ticks(ax, "x", TENS, last, fontsize=9)
    ax.set_xlabel("first right photo at rank", fontsize=9)
    ax.set_title("forget queries", fontsize=10)
    ax.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"], fontsize=9)
    gridded(ax, "y")
    ax.legend(fontsize=8.5, loc="upper right")


def _paired_bars(ax: Axes, before: Mapping[str, float], after: Mapping[str, float]) -> None:
    places = np.arange(len(after))
    colours = [colour_of(name, INK) for name in after]
    for values, shift, fill in ((before, -0.2, [to_rgba(ORIGINAL, 0.35)] * len(after)), (after, 0.2, colours)):
        heights = np.array([values[name] for name in after], dtype=np.float64)
        bars = ax.bar(places + shift, np.nan_to_num(heights), 0.38, color=fill)
        shares = ["–" if np.isnan(height) else f"{100 * height:.0f}" for height in heights]
        ax.bar_label(bars, shares, fontsize=8.5, padding=1)
    ax.set_xticks(places, [words(name).replace(" ", "\n") for name in after], fontsize=9)
    ax.set(ylim=(0, 1.14))
    ax.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"], fontsize=9)
    ax.set_title("grey: before, colour: after", fontsize=10)
    gridded(ax, "y")


def steps_diagram(steps: Sequence[tuple[str, str]], title: str = "") -> Figure:
    """Show a chain of boxes joined by arrows, each a (name, explanation) pair. Introduced in notebook 00."""
    columns = min(len(steps), 3)  # three in a line can be read on a phone
    rows = -(-len(steps) // columns)
    fig, ax = one(1.85 * columns + 0.3, 1.3 * rows + (0.35 if title else 0))
    box = dict(boxstyle="round,pad=0.5", facecolor=to_rgba(ACCENT, 0.16), edgecolor=ACCENT, linewidth=1.8)
    for i, (name, explanation) in enumerate(steps):
        place, height = i % columns, 0.62 - 1.2 * (i // columns)
        ax.text(place, height, lines_of(name), ha="center", va="center", fontsize=12, fontweight="bold", bbox=box)
        ax.text(place, height - 0.35, lines_of(explanation), ha="center", va="top", fontsize=10.5)
        if place:
            arrow = dict(arrowstyle="-|>", color=INK, linewidth=1.6)
            ax.annotate("", (place - 0.33, height), (place - 0.67, height), arrowprops=arrow)
    ax.set(xlim=(-0.55, columns - 0.45), ylim=(0.95 - 1.2 * rows, 0.95))
    ax.axis("off")
    return finished(fig, title)


def loss_curve(losses: Sequence[float], title: str = "") -> Figure:
    """Show the loss of a training by step. Introduced in notebook 02."""
    fig, ax = one(5.6, 3.4)
    ax.plot(np.arange(1, len(losses) + 1), losses, color=ORIGINAL)
    ax.set(xlabel="step", ylabel="loss")
    gridded(ax)
    return finished(fig, title)


WRAPPERS = {  # what a holder of the file learns, and the chain
    "Block list": (
        "holds a mean of each person who asked",
        ("network,\nas it was", "near the stored mean\nof a person?", "noise"),
    ),
    "ESC": (
        "holds the directions that they span",
        ("network,\nas it was", "no gate:\nall faces pass", "directions\nerased"),
    ),
    "Gather and scatter": (
        "holds a network that detects them",
        ("network sends\nthem to one place", "near that\nplace?", "noise"),
    ),
}
WRAPPED = (
    "Protects against: whoever only sees a service's answers.\n"
    "Not against: whoever holds the file and takes the part off."
)


def wrapper_diagram(title: str = "Three parts behind a network") -> Figure:
    """Show three wrappers as chains network, gate, noise, and what they protect against. Introduced in notebook 08."""
    fig, ax = one(5.9, 5.0)
    for row, (name, (holds, chain)) in enumerate(WRAPPERS.items()):
        top = 2.6 * (len(WRAPPERS) - row)
        ax.text(-0.45, top + 0.95, name, fontsize=12, fontweight="bold", va="center")
        ax.text(2.45, top + 0.95, holds, fontsize=10, va="center", ha="right", color=CHANCE)
        for place, (said, colour) in enumerate(zip(chain, (RETAIN, CHANCE, FORGET), strict=True)):
            box = dict(boxstyle="round,pad=0.45", facecolor=to_rgba(colour, 0.14), edgecolor=colour, linewidth=1.8)
            ax.text(place, top, said, ha="center", va="center", fontsize=10.5, bbox=box)
        for left, right in ((0.4, 0.55), (1.5, 1.68)):
            ax.annotate("", (right, top), (left, top), arrowprops=dict(arrowstyle="-|>", color=INK, linewidth=1.6))
        if "?" in chain[1]:
            ax.text(1.58, top + 0.4, "yes", fontsize=10, ha="center")
            ax.text(1, top - 0.95, "no: untouched", fontsize=10, ha="center")
    ax.text(-0.45, 0.75, WRAPPED, fontsize=10.5, va="center")
    ax.set(xlim=(-0.5, 2.5), ylim=(0.1, 9.2))
    ax.axis("off")
    return finished(fig, title)


def ablation_dots(lines: Sequence[tuple[str, str, Sequence[Mapping]]], title: str = "") -> Figure:
    """Show forget and unseen mAP of variants, a dot per seed; `lines` come from `ablation_lines`. Notebook 08."""
    fig, axes = row_of(2, 6.6, 0.3 * len(lines) + 1.5, sharey=True)
    start = lines[0][2][0]
    groups = {group: i % len(CYCLE) for i, group in enumerate(dict.fromkeys(group for group, _, _ in lines))}
    looks = {group: dict(color=CYCLE[i], marker=MARKERS[i], s=48) for group, i in groups.items()}
    for ax, (pool, better) in zip(axes, BETTER.items(), strict=True):
        for place, (group, _, trials) in enumerate(lines):
            scores = [trial[pool]["map"] for trial in trials]
            ax.hlines(-place, min(0, *scores), np.mean(scores), color="#DDDDDD", zorder=1)
            ax.scatter(scores, [-place] * len(scores), edgecolors=PAPER, zorder=3, **looks[group])
        ax.axvline(start[pool]["map"], color=ORIGINAL, linestyle=":", linewidth=1.5)
        ax.set(xlabel=f"{pool} mAP\n({better})", xlim=(-0.03, 1.06), ylim=(0.7 - len(lines), 0.7), xticks=(0, 0.5, 1))
        ax.xaxis.set_major_formatter(PERCENT)
    for place, (group, _, _) in enumerate(lines):
        if place and group != lines[place - 1][0]:
            for ax in axes:
                ax.axhline(0.5 - place, color=INK, linewidth=0.8)
    axes[0].set_yticks([-place for place in range(len(lines))], [words(label) for _, label, _ in lines])
    for group, look in looks.items():
        axes[0].scatter([], [], label=words(group), **look)
    legend_below(fig, axes[0], 3)
    return finished(fig, title)


def method_looks(names: Iterable[str]) -> dict[str, dict]:
    """Return colour, mark and label of each method's line; the two references always have the same colours."""
    strong = (*CYCLE[:-1], WRONG)  # the last of the cycle, yellow, is a pale line on white
    free = itertools.cycle(colour for colour in strong if colour not in (ORIGINAL, RETRAIN))
    fixed = {"original": ORIGINAL, "retrain": RETRAIN}
    marks = itertools.cycle(MARKERS)
    return {name: dict(color=fixed.get(name) or next(free), marker=next(marks), label=words(name)) for name in names}


def cost_bars(costs: Mapping[str, float], unit: str, title: str = "", whole: str = "retrain") -> Figure:
    """Show what each method costs as bars on a log axis, with its share of `whole`'s price. Notebook 09."""
    names, prices = list(costs), np.array(list(costs.values()), dtype=np.float64)
    least = prices[prices > 0].min() / 3
    fig, ax = one(8.0, 0.27 * len(names) + 1.2)
    colours = [RETRAIN if name == whole else RETAIN for name in names]
    ax.barh(range(len(names)), np.maximum(prices, least) - least, left=least, color=colours, height=0.7)
    for place, price in enumerate(prices):
        share = f"  {price / costs[whole]:.1%} of {words(whole)}" if whole in costs and names[place] != whole else ""
        ax.text(max(price, least) * 1.06, place, f"{price:,.0f}{share}", va="center", fontsize=9)
    ax.set(xscale="log", xlabel=unit, xlim=(least, prices.max() * 12), ylim=(len(names) - 0.4, -0.6))
    ax.set_yticks(range(len(names)), [words(name) for name in names], fontsize=9)
    log_ticks(ax, "x", [10**power for power in range(12) if least <= 10**power <= 12 * prices.max()])
    gridded(ax, "x")
    return finished(fig, title)


def budget_grid(runs: Mapping[str, Mapping[int, Mapping]], title: str = "") -> Figure:
    """Show forget and unseen mAP by photos looked at, {method: {budget: run}}; what diverged is a gap. Notebook 09."""
    fig, axes = panels(len(runs), 3, (2.35, 0), (1.5, 1.1), sharex=True, sharey=True)
    for ax, (name, by_budget) in zip(axes, runs.items(), strict=True):
        photos = [run.get("images_processed", budget) for budget, run in by_budget.items()]
        for pool, look in {"forget": dict(marker="o"), "unseen": dict(marker="s", linestyle="--")}.items():
            heights = [run[pool]["map"] if pool in run else np.nan for run in by_budget.values()]
            ax.plot(photos, heights, color=POOLS[pool], label=f"{pool} mAP ({BETTER[pool]})", **look)
        ax.set(xscale="log", ylim=(-0.03, 1.05))
        ax.set_title(lines_of(words(name, 30)), fontsize=9.5, loc="left")
        log_ticks(ax, "x", [2_000, 8_000, 33_000], fontsize=7.5)
        gridded(ax, percent="y")
    fig.axes[-2].set_xlabel("photos looked at")  # the middle one of the last line
    legend_below(fig, axes[0], 2)
    return finished(fig, title)


def size_lines(scores: Mapping[str, Mapping[int, Mapping[str, float]]], title: str = "") -> Figure:
    """Show forget and unseen mAP by how many people are forgotten: {method: {people: {pool: mAP}}}. Notebook 09."""
    fig, axes = row_of(2, 7.4, 4.2)
    looks = method_looks(scores)
    for ax, (pool, better) in zip(axes, BETTER.items(), strict=True):
        for name, by_size in scores.items():
            ax.plot(list(by_size), [by_size[size][pool] for size in by_size], linewidth=1.8, **looks[name])
        sizes = sorted({size for by_size in scores.values() for size in by_size})
        ax.set(xscale="log", xlabel="people forgotten", ylabel=f"{pool} mAP ({better})", ylim=(0, 1.03))
        log_ticks(ax, "x", sizes)
        gridded(ax, percent="y")
    legend_below(fig, axes[0], 4)
    return finished(fig, title)


def two_worlds(worlds: Mapping[str, Mapping[str, Mapping]], title: str = "") -> Figure:
    """Show forget and unseen mAP in two worlds, {world: {method: scores}}; one may lack a method. Notebook 05."""
    names = list(dict.fromkeys(name for scores in worlds.values() for name in scores))
    fig, axes = row_of(2, 6.8, 0.3 * len(names) + 1.6, sharey=True)
    for ax, (pool, better) in zip(axes, BETTER.items(), strict=True):
        shares = [
            [scores[name][pool]["map"] if name in scores else np.nan for name in names] for scores in worlds.values()
        ]
        for place, both in enumerate(np.transpose(shares)):
            ax.plot(both, [-place] * len(both), color="#BBBBBB", linewidth=1.5, zorder=1)
        for row, marker, fill in zip(shares, ("o", "D"), (PAPER, POOLS[pool]), strict=False):
            ax.scatter(row, -np.arange(len(names)), 52, facecolor=fill, edgecolor=POOLS[pool], marker=marker, zorder=3)
        ax.set(xlabel=f"{pool} mAP\n({better})", xlim=(-0.04, 1.04), xticks=(0, 0.5, 1))
        gridded(ax, percent="x")
    axes[0].set_yticks(-np.arange(len(names)), [words(class_of(name)[1], 32) for name in names])
    for world, marker, fill in zip(worlds, ("o", "D"), (PAPER, INK), strict=False):
        axes[0].scatter([], [], 52, facecolor=fill, edgecolor=INK, marker=marker, label=words(world))
    legend_below(fig, axes[0], 2)
    return finished(fig, title)


def request_lines(runs: Mapping[str, Sequence[Sequence[Mapping]]], title: str = "") -> Figure:
    """Show groups' and strangers' mAP, means over seeds, as requests follow: {method: states per seed}. Notebook 09."""
    columns = min(len(runs), 2)  # two in a line can be read on a phone
    fig, axes = panels(len(runs), columns, (3.1, 0.6), (2.6, 0.9), sharey=True)
    for spare in fig.axes[len(runs) :]:
        spare.remove()
    for ax, (name, seeds) in zip(axes, runs.items(), strict=True):
        groups = np.mean([[state["groups"] for state in states] for states in seeds], axis=0)
        unseen = np.mean([[state["unseen"] for state in states] for states in seeds], axis=0)
        steps = np.arange(len(groups))
        for group, heights in enumerate(groups.T):
            look = dict(linestyle=("-", "--", "-.", (0, (5, 1)))[group % 4], marker=MARKERS[group % len(MARKERS)])
            ax.plot(steps, heights, color=FORGET, label=f"forget, request {group + 1}", **look)
        ax.plot(steps, unseen, ":", color=UNSEEN, label="unseen people")
        ax.set(xticks=steps, ylim=(-0.02, 1.03))
        ax.set_title(words(name), loc="center")
        gridded(ax, percent="y")
    for place, ax in enumerate(axes):
        ax.set(xlabel="requests answered" * (place + columns >= len(runs)), ylabel="mAP" * (place % columns == 0))
    legend_below(fig, axes[0], 2)
    return finished(fig, title)
