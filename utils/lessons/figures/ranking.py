"""Figures of people and rankings: splits, precision and recall, ROC, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ...faces.splits import Splits
from .base import colour_of, finished, gridded, legend_below, lines_of, log_ticks, one, page
from .palette import ACCENT, CHANCE, CORRECT, CYCLE, INK, MARKERS, ORIGINAL, PAPER, POOLS, RETAIN, RETRAIN, WRONG


def photos_per_person(labels: ArrayLike, minimum: int | None = None, title: str = "") -> Figure:
    """Show how many photos each person has, most photographed first, with the least that training asks. Notebook 01."""
    counts = np.sort(np.unique(np.asarray(labels), return_counts=True)[1])[::-1]
    fig, ax = one(7.6, 3.4)
    ax.stairs(counts, np.arange(len(counts) + 1) + 0.5, fill=True, color=to_rgba(RETAIN, 0.55))
    if minimum is not None:
        enough = int((counts >= minimum).sum())
        label = f"training asks for {minimum} photos: {enough} of {len(counts)} people have them"
        ax.axhline(minimum, color=INK, linestyle="--", linewidth=1.5, label=label)
        legend_below(fig, ax, 3)
    ax.set(xlabel="people, most photographed first", ylabel="photos", yscale="log", xlim=(0.5, len(counts) + 0.5))
    log_ticks(ax, "y", [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000], 1.2 * counts.max())
    ax.set_ylim(bottom=0.8)
    gridded(ax, "y")
    return finished(fig, title)


def split_map(splits: Splits, title: str = "") -> Figure:
    """Show every person as a column of photos, pool by pool, coloured by the part each photo plays. Notebook 01."""
    parts = {"train": to_rgba(ORIGINAL, 0.45), "query": RETRAIN, "gallery": ACCENT}
    if both := splits.held_out == "half":  # each held-out photo plays both parts: drawn once
        parts = {"train": parts["train"], "gallery": ACCENT}
    pools = [pool for pool in ("forget", "dev_forget", "retain", "unseen", "distractors") if getattr(splits, pool)]
    fig, ax = one(11.0, 4.2)
    left, places, names = 0.0, [], []
    line = 0.5 if splits.n_identities <= 200 else 0.0
    for pool in pools:
        people = np.asarray(getattr(splits, pool))
        photos = splits.faces.labels[np.concatenate([splits.photos(pool, part) for part in parts])]
        people = people[np.argsort(-np.bincount(photos)[people], kind="stable")]
        room = max(len(people), 0.1 * splits.n_identities)  # a small pool is widened: its name must fit below
        width, bottom = room / len(people), np.zeros(len(people))
        for part in parts:
            counts = np.bincount(splits.faces.labels[splits.photos(pool, part)], minlength=photos.max() + 1)[people]
            middles = left + width * (np.arange(len(people)) + 0.5)
            label = ("query and gallery" if both and part == "gallery" else part) if pool == pools[0] else None
            ax.bar(middles, counts, width, bottom, color=parts[part], label=label, edgecolor=PAPER, linewidth=line)
            bottom = bottom + counts
        places.append(left + room / 2)
        names.append(f"{pool.replace('_', '-')}\n{len(people)} people")
        left += room + 0.02 * splits.n_identities
    sizes = np.unique(splits.faces.labels, return_counts=True)[1]
    top = min(sizes.max(), 3 * np.median(sizes) + 20)  # whoever has many more photos is cut off
    ax.set(ylabel="photos", ylim=(0, 1.05 * top), xlim=(-0.01 * left, left))
    ax.set_xticks(places, names)
    for name, pool in zip(ax.get_xticklabels(), pools, strict=True):
        name.set_color(POOLS.get(pool, INK))
    ax.tick_params(axis="x", length=0)
    gridded(ax, "y")
    legend_below(fig, ax, 3)
    return finished(fig, title)


# -------------------------------------------------------------------------------------------------------- retrieval


def precision_recall_walk(relevant: Sequence[bool], n_shown: int = 20, title: str = "") -> Figure:
    """Show how average precision is computed down one ranking list of hits and misses. Introduced in notebook 03."""
    relevant = np.asarray(relevant, dtype=bool)
    ranks = np.arange(1, len(relevant) + 1)
    precision = np.cumsum(relevant) / ranks
    average = precision[relevant].mean() if relevant.any() else 0.0
    n_shown = min(n_shown, len(relevant))
    hits, shown = relevant[:n_shown], ranks[:n_shown]
    fig = page(max(6.5, 0.46 * n_shown + 1.2), 3.9)
    top, ax = fig.subplots(2, 1, sharex=True, height_ratios=(1, 5))
    top.bar(shown, 1, width=0.88, color=[to_rgba(CORRECT if h else WRONG, 0.28) for h in hits])
    for rank, hit in zip(shown, hits, strict=True):
        look = dict(ha="center", va="center", fontsize=13, color=CORRECT if hit else WRONG)
        top.text(rank, 0.5, "✓" if hit else "✗", **look)
    top.axis("off")
    ax.plot(shown, precision[:n_shown], color="#BBBBBB", linewidth=1.5, zorder=1)
    ax.vlines(shown[hits], 0, precision[:n_shown][hits], color=CORRECT, linewidth=2)
    ax.scatter(shown[hits], precision[:n_shown][hits], color=CORRECT, s=50, zorder=3)
    halo = dict(facecolor=PAPER, edgecolor="none", pad=1)
    for rank in shown[hits]:
        share = f"{relevant[:rank].sum()}/{rank}"
        ax.text(rank, precision[rank - 1] + 0.05, share, ha="center", fontsize=10, bbox=halo, zorder=4)
    ax.axhline(average, color=INK, linestyle="--", linewidth=1.4)
    ax.text(n_shown + 0.6, average, f" AP {average:.2f}", va="center", fontweight="bold")
    ax.set(xlabel="rank", ylabel="precision so far", ylim=(0, 1.18), xlim=(0.4, n_shown + 0.6), xticks=shown)
    ax.set_yticks([0, 0.5, 1])
    later = relevant[n_shown:].sum()
    return finished(fig, title + (f" (hits below rank {n_shown}: {later})" if later else ""))


def roc_curve(far: ArrayLike, tar: ArrayLike, mark: float | None = 1e-3, title: str = "") -> Figure:
    """Show the true accept rate against the false accept rate (log axis), marked at one rate. Notebook 03."""
    far, tar = np.asarray(far, dtype=np.float64), np.asarray(tar, dtype=np.float64)
    order = np.lexsort((tar, far))
    far, tar = far[order], tar[order]
    floor = max(far[far > 0].min(initial=1.0), 1e-6)
    fig, ax = one(6.6, 4.0)
    ax.plot(np.maximum(far, floor), tar, color=RETAIN, label="this model")
    chance = np.geomspace(floor, 1, 100)
    ax.plot(chance, chance, ":", color=CHANCE, label="guessing")
    if mark is not None:
        height = np.interp(mark, far, tar)
        ax.plot([mark], [height], "o", color=INK, markersize=9)
        note = f"TAR {height:.0%} at FAR {mark:.1%}"
        ax.annotate(note, (mark, height), (10, -8), textcoords="offset points", va="top")
    ax.set(xscale="log", xlabel="FAR: strangers let in", ylabel="TAR: true pairs accepted", ylim=(0, 1.03))
    gridded(ax, percent="xy")
    ax.legend(loc="lower right")
    return finished(fig, title)


def rank_edges(last: int) -> np.ndarray:
    """Bin edges that give rank 1 a bin of its own and about six bins per factor of ten after it."""
    edges = np.unique(np.round(np.geomspace(1, last + 1, int(6 * np.log10(last + 1)) + 2)))
    return edges - 0.5


def identity_dots(values: Mapping[str, ArrayLike], ylabel: str, title: str = "", chance: float | None = None) -> Figure:
    """Show one dot per identity and the median of each pool; keys name the pools. Introduced in notebook 03."""
    fig, ax = one(max(5.5, 1.1 * len(values) + 1.0), 4.0)
    rng = np.random.default_rng(0)
    for i, (name, scores) in enumerate(values.items()):
        scores = np.asarray(scores, dtype=np.float64)
        colour = colour_of(name, colour_of(ylabel, CYCLE[i % len(CYCLE)]))
        spread = rng.uniform(-0.22, 0.22, len(scores))
        look = dict(color=colour, s=30, alpha=0.65, marker=MARKERS[i % len(MARKERS)], edgecolors=PAPER)
        ax.scatter(i + spread, scores, **look)
        ax.hlines(np.median(scores), i - 0.32, i + 0.32, color=INK, linewidth=2.5, label="median" * (not i))
    if chance is not None:
        ax.axhline(chance, color=CHANCE, linestyle=":", label="chance")
    legend_below(fig, ax, 3)
    ax.set_xticks(range(len(values)), [f"{lines_of(name)}\n({len(scores)})" for name, scores in values.items()])
    ax.set(ylabel=ylabel, xlim=(-0.6, len(values) - 0.4))
    gridded(ax, "y")
    return finished(fig, title)
