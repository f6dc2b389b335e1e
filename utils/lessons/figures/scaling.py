"""Figures of notebook 12: large galleries, mixed galleries, processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from .base import finished, gridded, legend_below, one, row_of, share_histogram, words
from .palette import CHANCE, CYCLE, MARKERS, ORIGINAL, POOLS, RETAIN

TICKS = [number * 10.0**power for power in range(-3, 4) for number in (1, 3)]


def recall_lines(measured: Sequence[Mapping], title: str = "") -> Figure:
    """Show recall against milliseconds a query (log axis), a line per index, its efforts as points. Notebook 12."""
    fig, ax = one(7.4, 4.2)
    for place, kind in enumerate(dict.fromkeys(row["index"] for row in measured)):
        rows = [row for row in measured if row["index"] == kind]
        times, shares = ([row[key] for row in rows] for key in ("median_ms", "recall@10"))
        look = dict(color=CYCLE[place], marker=MARKERS[place], markersize=7, linewidth=1.8)
        ax.plot(times, shares, label=f"{words(kind)} ({rows[0]['megabytes']:,.0f} MB)", **look)
    ax.set(xscale="log", xlabel="milliseconds a query (median)", ylabel="recall@10 against exact", ylim=(0, 1.05))
    low, high = ax.get_xlim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    gridded(ax, "both", "y")
    ax.legend(loc="lower right")
    return finished(fig, title)


def rollover_lines(found: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], title: str = "") -> Figure:
    """Show R@1 as a gallery is rolled over, {new model: {who asks: {pool: shares}}}, "new" solid. Notebook 12."""
    fig, axes = row_of(len(found), 4.6 * len(found), 3.9, sharey=True)
    for ax, (name, askers) in zip(axes, found.items(), strict=True):
        for asker, line in (("new", "-"), ("old", ":")):
            for (pool, shares), marker in zip(askers[asker].items(), MARKERS, strict=False):
                look = dict(color=POOLS[pool], linestyle=line, marker=marker, markersize=6)
                ax.plot(np.linspace(0, 1, len(shares)), shares, label=f"{pool}, {asker} model asks", **look)
        ax.set(xlabel="share of the gallery embedded anew", ylim=(-0.03, 1.05))
        ax.set_title(words(name))
        gridded(ax, "both", "xy")
    axes[0].set_ylabel("R@1")
    legend_below(fig, axes[0], 2)
    return finished(fig, title)


def mixed_scores(cosines: Mapping[str, Sequence[ArrayLike]], title: str = "") -> Figure:
    """Show cosines in a half-updated gallery, {new model: (same, new vector; same, old; strangers)}. Notebook 12."""
    fig, axes = row_of(len(cosines), 4.6 * len(cosines), 3.6, sharey=True)
    looks = (
        ("same person, new vector", RETAIN, "-"),
        ("same person, old vector", ORIGINAL, "--"),
        ("strangers", CHANCE, ":"),
    )
    for ax, (name, sets) in zip(axes, cosines.items(), strict=True):
        for values, (label, colour, line) in zip(sets, looks, strict=True):
            share_histogram(ax, np.asarray(values).ravel(), np.linspace(-0.6, 1.0, 41), label, colour, line)
        ax.set_xlabel("cosine of query and gallery photo")
        ax.set_title(words(name))
        gridded(ax, "y", "y")
    axes[0].set_ylabel("share of pairs")
    legend_below(fig, axes[0], 3)
    return finished(fig, title)


def gap_bars(gaps: Mapping[str, float], label: str, limit: float, title: str = "") -> Figure:
    """Show relative differences on a log axis, those above `limit` in grey, and the limit as a line. Notebook 12."""
    fig, ax = one(7.4, 0.45 * len(gaps) + 1.5)
    places, least = np.arange(len(gaps)), 1e-9
    values = np.maximum(list(gaps.values()), 2 * least)
    colours = [CHANCE if value > limit else RETAIN for value in values]
    ax.barh(places, values - least, left=least, color=colours, height=0.6)
    for place, value in zip(places, gaps.values(), strict=True):
        ax.text(max(value, 2 * least) * 1.4, place, f"{value:.0e}", va="center", fontsize=10)
    ax.axvline(limit, color=ORIGINAL, linestyle=":", label="float32 rounding")
    ax.set(xscale="log", xlabel=label, xlim=(least, 10), ylim=(len(gaps) - 0.4, -0.6))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_yticks(places, [words(name) for name in gaps])
    gridded(ax, "x")
    ax.legend(loc="upper right")
    return finished(fig, title)
