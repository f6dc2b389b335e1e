"""Figures of the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .base import finished, gridded, legend_below, one, words
from .fronts import class_of
from .outcomes import method_looks
from .palette import FORGET, HEAT, INK, ORIGINAL, PAPER, PERCENT

GOALS = {
    "chance": "chance",
    "unseen": "never-seen people",
    "retrained": "retrained model",
    "half": "0.5",
    "strangers": "strangers, retrained",
    "zero": "0",
    "original": "original: a price",
}
HOLDERS = {
    "photos": "with photos only",
    "names": "with a few named photos",
    "old gallery": "with the old gallery",
    "weights": "with the model's weights",
    "old head": "with the weights and the old head",
    "old model": "with the weights and the old model",
}


def attackers_diagram(holdings: Mapping[str, Sequence[str]], things: Sequence[str], title: str = "") -> Figure:
    """Show what attackers hold, {attacker: things}: a line per attacker, a filled square per thing. Notebook 10."""
    fig, ax = one(0.62 * len(things) + 2.6, 0.42 * len(holdings) + 1.2)
    for height, held in enumerate(holdings.values()):
        for place, thing in enumerate(things):
            ax.scatter(place, -height, s=230, marker="s", color=INK if thing in held else "#EEEEEE")
    ax.set_yticks(-np.arange(len(holdings)), [words(HOLDERS.get(name, name)) for name in holdings])
    ax.set_xticks(range(len(things)), [words(thing).replace(" ", "\n") for thing in things])
    ax.set(xlim=(-0.6, len(things) - 0.4), ylim=(0.6 - len(holdings), 0.6))
    _as_table(ax)
    return finished(fig, title)


def _as_table(ax: Axes) -> None:
    """Write the names of columns above them, and draw neither ticks nor a frame."""
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)


def audit_page(rows: Sequence[Mapping], title: str = "") -> Figure:
    """Show what `audit.audit` returns: a line per attack that applies, grouped by what attackers hold. Notebook 10."""
    lines = _audit_lines(rows)
    fig, ax = one(5.6, 0.42 * len(lines) + 1.5)
    heights = -np.arange(len(lines))
    for height, (label, row) in zip(heights, lines, strict=True):
        if row is None:
            ax.text(0, height, words(label), va="center", fontweight="bold")
            continue
        ax.hlines(height, 0, 1, color="#DDDDDD", linewidth=0.8, zorder=1)
        higher = row["score"] > row["target"] and row["stated_target"] != "original"
        if higher or row["stated_target"] == "half":  # a bar is what came back
            ends = sorted((row["target"], row["score"]))
            ax.hlines(height, *ends, color=to_rgba(FORGET, 0.45), linewidth=4, zorder=2)
        above = height + 0.38
        ax.text(0, above, words(label), va="center", fontsize=9)
        ax.text(1, above, f"{_score_text(row)} · {GOALS[row['stated_target']]}", ha="right", va="center", fontsize=9)
    shown = [(height, row) for height, (_, row) in zip(heights, lines, strict=True) if row is not None]
    looks = {
        "original": dict(marker="s", s=34, facecolors="none", edgecolors=ORIGINAL, label="original model"),
        "target": dict(marker="|", s=120, color=INK, linewidths=2.2, label="stated target, named on the right"),
        "score": dict(marker="o", s=44, color=FORGET, edgecolors=PAPER, zorder=4, label="after unlearning"),
    }
    worst = [(row["worst"]["score"], height) for height, row in shown if row.get("worst")]
    if worst:
        look = {"marker": "|", "s": 60, "color": FORGET, "linewidths": 1.2, "zorder": 3}
        ax.scatter(*zip(*worst, strict=True), **look, label="worst person")
    for key, look in looks.items():
        ax.scatter([row[key] for _, row in shown], [height for height, _ in shown], **{"zorder": 3} | look)
    ax.set(xlim=(-0.01, 1.01), ylim=(heights[-1] - 0.5, 0.6), yticks=[])
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("score of the attack (mAP, top-1, matched, AUC or gain)")
    legend_below(fig, ax, 2)
    return finished(fig, title)


def _score_text(row: Mapping) -> str:
    """Write an attack's score in percent, an AUC or gain as a number, a dash if it is unknown."""
    score = row["score"]
    plain = row["metric"] in ("AUC", "gain")
    return "–" if np.isnan(score) else f"{score:.2f}" if plain else f"{100 * score:.0f}%"


def _audit_lines(rows: Sequence[Mapping]) -> list[tuple[str, Mapping | None]]:
    """Return the lines of an audit page: a heading (without a row) before each group of attacks that apply."""
    lines: list[tuple[str, Mapping | None]] = []
    for holder, heading in HOLDERS.items():
        mine = [row for row in rows if row["attacker"] == holder and not _unknown(row["score"])]
        lines += [(heading, None)] * bool(mine) + [(row["title"], _without_none(row)) for row in mine]
    return lines


def _unknown(value: float | None) -> bool:
    return value is None or bool(np.isnan(value))


def _without_none(row: Mapping) -> dict:
    """Return a row in which what a JSON file calls null is NaN again."""
    return {key: np.nan if value is None and key != "worst" else value for key, value in row.items()}


def audit_map(audits: Mapping[str, Sequence[Mapping]], title: str = "") -> Figure:
    """Show attacks × methods: scores as numbers, what they recovered as colours (white: too little to). Notebook 10."""
    table = {name: {row["attack"]: _without_none(row) for row in rows} for name, rows in audits.items()}
    lines = _audit_lines([row for rows in audits.values() for row in rows if not _unknown(row["score"])])
    lines = list({(label, row and row["attack"]): (label, row) for label, row in lines}.values())
    fig, ax = one(0.8 * len(table) + 4.2, 0.27 * len(lines) + 1.9)
    cells = [[known.get(row["attack"]) if row else None for known in table.values()] for _, row in lines]
    shares = [[cell["recovered"] if cell else np.nan for cell in line] for line in cells]
    said = [[_score_text(cell) if cell else "" for cell in line] for line in cells]
    goals = [f"{words(label)}  [{GOALS[row['stated_target']]}]" if row else label for label, row in lines]
    ax.set_yticks(range(len(lines)), goals, fontsize=9)
    for tick, (_, row) in zip(ax.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("normal" if row else "bold")
    ax.set_xticks(range(len(table)), [words(class_of(name)[1]).replace(" ", "\n") for name in table])
    _colour_by_share(ax, shares, said)
    return finished(fig, title)


def _colour_by_share(ax: Axes, shares: ArrayLike, said: Sequence[Sequence[str]]) -> None:
    """Fill a table with colours, the shares that came back, and with what is said of each."""
    drawn = ax.imshow(shares, cmap=HEAT, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for (i, j), share in np.ndenumerate(shares):
        ax.text(j, i, said[i][j], ha="center", va="center", fontsize=9, color=PAPER if share < 0.5 else INK)
    _as_table(ax)
    bar = ax.figure.colorbar(drawn, ax=ax, location="bottom", shrink=0.8, aspect=30, pad=0.02)
    bar.set_label("recovered: 0 = at the target, 1 = at the original")
    bar.ax.xaxis.set_major_formatter(PERCENT)


def attackers_map(table: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """Show the most that came back to each attacker in percent, {method: {attacker: share}}; a dash: unknown."""
    shares = [[float(share) for share in row.values()] for row in table.values()]
    said = [["–" if np.isnan(share) else f"{100 * share:.0f}" for share in row] for row in shares]
    holders = list(next(iter(table.values())))
    fig, ax = one(0.62 * len(holders) + 2.6, 0.27 * len(table) + 1.9)
    ax.set_yticks(range(len(table)), [words(name) for name in table], fontsize=9)
    ax.set_xticks(range(len(holders)), [words(name).replace(" ", "\n") for name in holders], fontsize=9)
    _colour_by_share(ax, shares, said)
    return finished(fig, title)


def relearning_curves(curves: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """Show forget mAP by relearning step, {name: {step: mAP}}, with the references' own lines. Notebook 10."""
    fig, ax = one(6.2, 4.6)
    looks = method_looks(curves)
    for name, curve in curves.items():
        line = {"original": ":", "retrain": "--"}.get(name, "-")
        look = looks[name] | {"label": words(class_of(name)[1])}
        ax.plot([int(step) for step in curve], list(curve.values()), line, **look)
    ax.set(xlabel="relearning step", ylabel="forget mAP, held-out queries", ylim=(0, 1.04))
    ax.set_xticks(sorted({int(step) for curve in curves.values() for step in curve}))
    gridded(ax, percent="y")
    legend_below(fig, ax, 2)
    return finished(fig, title)
