"""Figures of points: cosines, spheres, circles, margins."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from html import escape

import numpy as np
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from .base import colour_of, finished, gridded, legend_below, name_of, one, page, panels, row_of, share_histogram, words
from .palette import CHANCE, CYCLE, FORGET, FRONT, HEAT, INK, MARKERS, PAPER, RETAIN, RETRAIN


def similarity_heatmap(
    embeddings: ArrayLike | Mapping[str, ArrayLike],
    labels: ArrayLike,
    names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Show all cosines among a few people's photos, (N, d) unit rows; a mapping has a panel for each. Notebook 02."""
    shown = embeddings if isinstance(embeddings, Mapping) else {"": embeddings}
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    people, starts = np.unique(labels[order], return_index=True)
    edges = np.append(starts, len(labels))
    side, room = (5.0, 0) if len(shown) == 1 else (2.2, 0.5)
    fig, axes = panels(len(shown), min(len(shown), 3), (side, 0.9), (side, room))
    for ax, (name, emb) in zip(axes, shown.items(), strict=True):
        emb = np.asarray(emb)[order]
        drawn = ax.imshow(emb @ emb.T, vmin=-0.2, vmax=1, cmap=HEAT, interpolation="nearest")
        middles = (edges[:-1] + edges[1:] - 1) / 2
        said = [name_of(label, names) if len(people) > 1 else "" for label in people]
        ax.set_xticks(middles, said, rotation=30, ha="right", rotation_mode="anchor")
        ax.set_yticks(middles, said)
        ax.tick_params(length=3.5 * any(said))
        for edge in edges[1:-1]:
            ax.axhline(edge - 0.5, color=PAPER, linewidth=1.5)
            ax.axvline(edge - 0.5, color=PAPER, linewidth=1.5)
        ax.set_title(words(name))
    fig.colorbar(drawn, ax=fig.axes, label="cosine", shrink=0.85, extend="min")
    return finished(fig, title)


def cosine_histograms(
    same: ArrayLike,
    different: ArrayLike,
    threshold: float | None = None,
    title: str = "",
    log: bool = False,
    names: tuple[str, str] = ("different people", "same person"),
    unit: str = "pairs",
    xlabel: str = "cosine of the two embeddings",
) -> Figure:
    """Show how the cosines of same-identity and different-identity pairs are spread, as shares. Notebook 02."""
    same, different = np.asarray(same).ravel(), np.asarray(different).ravel()
    bins = np.linspace(min(same.min(), different.min(), -0.2), 1.0, 61)
    fig, ax = one(7.6, 3.8)
    own = FRONT if any(colour_of(name, "") for name in names) else RETAIN  # beside a pool, a blue that is no pool's
    for values, name, colour, line in ((different, names[0], CHANCE, "--"), (same, names[1], own, "-")):
        share_histogram(ax, values, bins, f"{words(name)} ({values.size:,} {unit})", colour_of(name, colour), line)
    if threshold is not None:
        ax.axvline(threshold, color=INK, linewidth=1.5, label=f"threshold {threshold:.2f}")
    ax.set(xlabel=xlabel, ylabel=f"share of {unit}", yscale="log" if log else "linear")
    gridded(ax, "y", "y")
    legend_below(fig, ax, 3)
    return finished(fig, title)


def two_recognisers(sides: Mapping, title: str = "") -> Figure:
    """Show, model by model, which shares of pairs of one person and of two people have which cosine. Notebook 02."""
    fig, axes = row_of(len(sides["models"]), 11.0, 3.9, sharey=True)
    for ax, side in zip(axes, sides["models"].values(), strict=True):
        for kind, colour, line in (("other", CHANCE, "--"), ("same", RETAIN, "-")):
            who = "two people" if kind == "other" else "one person"
            ax.stairs(side[kind], sides["bins"], color=colour, linestyle=line, linewidth=2, label=f"pairs of {who}")
        ax.set(xlabel="cosine of the two embeddings", title=f"{words(side['title'])}\nR@1 {side['r1']:.1%}")
        gridded(ax, "y", "y")
    axes[0].set_ylabel("share of pairs")
    legend_below(fig, axes[0], 2)
    return finished(fig, title)


def to_sphere(embeddings: ArrayLike, reference: ArrayLike | None = None) -> np.ndarray:
    """Project (N, d) unit rows onto the three directions along which `reference` (default: they themselves) varies
    most, and back to length 1, (N, 3). Introduced in notebook 02."""
    emb = np.asarray(embeddings, dtype=np.float64)
    frame = emb if reference is None else np.asarray(reference, dtype=np.float64)
    if emb.shape[1] > 3:
        centre = frame.mean(0)
        emb = (emb - centre) @ np.linalg.svd(frame - centre, full_matrices=False)[2][:3].T
    return emb / np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), 1e-12)


def sphere_scatter(
    points: ArrayLike | Mapping[str, ArrayLike],
    labels: ArrayLike,
    names: Sequence[str] | None = None,
    title: str = "",
    view: tuple[float, float] = (18, 35),
    forget: Collection[int] = (),
) -> Figure:
    """Show points (N, 3) on the ordinary sphere, coloured by label, `forget` in orange, some behind. Notebook 02."""
    shown = points if isinstance(points, Mapping) else {"": points}
    labels = np.asarray(labels)
    kept = iter(CYCLE * len(labels))
    colours = {label: FORGET if label in forget else next(kept) for label in dict.fromkeys(labels.tolist())}
    solid = {"projection": "3d", "computed_zorder": False}
    columns, room = (1, 0.99) if len(shown) == 1 else (2, 0)
    fig, axes = panels(len(shown), columns, (3.3, room), (3.4, 0.8), subplot_kw=solid)
    for ax, (name, xyz) in zip(axes, shown.items(), strict=True):
        _wireframe(ax, view)
        xyz = np.asarray(xyz)
        front = xyz @ _towards(view) > 0
        for i, (label, colour) in enumerate(colours.items()):
            for side, alpha, order in ((~front, 0.7, 1), (front, 0.95, 3)):
                chosen = xyz[(labels == label) & side]
                look = dict(color=colour, marker=MARKERS[i % len(MARKERS)], s=34, alpha=alpha, zorder=order)
                ax.scatter(*chosen.T, depthshade=False, edgecolors=PAPER, linewidths=0.4, **look)
            ax.scatter([], [], [], color=colour, marker=MARKERS[i % len(MARKERS)], s=40, label=name_of(label, names))
        ax.set_title(words(name), loc="center")
    legend_below(fig, axes[0], 2 * columns)
    return finished(fig, title)


def facing(points: ArrayLike) -> tuple[float, float]:
    """Return the view (elevation, azimuth in degrees) from which points (n, 3) lie in front. Notebook 04."""
    x, y, z = np.asarray(points, dtype=np.float64).mean(0)
    return float(np.degrees(np.arctan2(z, np.hypot(x, y)))) - 15, float(np.degrees(np.arctan2(y, x))) + 30


def _towards(view: tuple[float, float]) -> np.ndarray:
    """Return the unit vector that points from the ball to the viewer (elevation, azimuth in degrees)."""
    up, around = np.radians(view)
    return np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])


def _wireframe(ax: Axes, view: tuple[float, float]) -> None:
    around, down = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(0, np.pi, 13))
    ball = np.cos(around) * np.sin(down), np.sin(around) * np.sin(down), np.cos(down)
    ax.plot_surface(*ball, color="#F1F1F1", alpha=0.45, linewidth=0, shade=False, zorder=2)
    ax.plot_wireframe(*ball, color="#BBBBBB", linewidth=0.5, alpha=0.6, zorder=2)
    ax.set_box_aspect((1, 1, 1), zoom=1.35)
    ax.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    ax.view_init(*view)
    ax.set_axis_off()


def sphere_film(
    journeys: Mapping[str, ArrayLike],
    others: ArrayLike,
    moments: Sequence[int],
    notes: Mapping[str, str],
    title: str = "",
    view: tuple[float, float] = (18, 35),
) -> Figure:
    """Show journeys (steps, n, 3) over the sphere, a row each with its note, a column per moment; `others` (m, 3) rest.
    Introduced in notebook 04."""
    fig = page(1.3 * len(moments), 1.56 * len(journeys) + 0.8)
    axes = fig.subplots(len(journeys), len(moments), squeeze=False)
    for row, (name, places) in zip(axes, journeys.items(), strict=True):
        for ax, moment in zip(row, moments, strict=True):
            _disc(ax, np.asarray(places)[moment], np.asarray(others), view)
            ax.set_ylim(top=1.45)  # room for the row's name
            if ax in axes[0]:
                ax.set_title(f"step {moment}" if moment else "before", loc="center", fontsize=10)
        look = dict(va="center", fontsize=10, in_layout=False)  # a line may be as long as the row
        row[0].text(-1.08, 1.25, words(name), fontweight="bold", **look)
        row[-1].text(1.08, 1.25, words(notes.get(name, "")), ha="right", **look)
    return finished(fig, title)


def moving_spheres(
    journeys: Mapping[str, ArrayLike],
    others: ArrayLike | Mapping[str, ArrayLike],
    title: str = "",
    view: tuple[float, float] = (18, 35),
    frames: int = 24,
) -> HTML:
    """Show journeys (steps, n, 3) over the sphere as a small picture that moves; `others` rest (m, 3), or have journeys
    by the same names. Introduced in notebook 04."""
    rows = 1 if len(journeys) < 3 else 2
    columns = -(-len(journeys) // rows)
    last = min(len(places) for places in journeys.values()) - 1
    pictures = []
    for moment in np.unique(np.linspace(0, last**0.5, frames).round(3) ** 2).round().astype(int):
        fig = Figure(figsize=(max(1.75 * columns, 4.8), 2.1 * rows + 0.4 * (rows == 1)), layout="constrained", dpi=80)
        axes = list(fig.subplots(rows, columns, squeeze=False).flat)
        for ax, (name, places) in zip(axes, journeys.items(), strict=False):
            rest = np.asarray(others[name])[moment] if isinstance(others, Mapping) else np.asarray(others)
            _disc(ax, np.asarray(places)[moment], rest, view)
            ax.set_title(words(name), loc="center", fontsize=10)
        for ax in axes[len(journeys) :]:
            ax.axis("off")
        drawn = io.BytesIO()
        finished(fig, f"{title} · step {moment}", fontsize=11).savefig(drawn, format="png")
        pictures.append(Image.open(drawn).convert("RGB"))
    colours = pictures[-1].quantize(48, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    flat = [picture.quantize(palette=colours, dither=Image.Dither.NONE) for picture in pictures]
    film = io.BytesIO()
    timing = [120] * (len(flat) - 1) + [2500]
    flat[0].save(film, format="GIF", save_all=True, append_images=flat[1:], duration=timing, loop=0, optimize=True)
    data = base64.b64encode(film.getvalue()).decode()
    told = escape(f"{title}: animation of one person's points on a sphere under {', '.join(journeys)}.")
    return HTML(f'<img alt="{told}" src="data:image/gif;base64,{data}">')


def _disc(ax: Axes, mine: np.ndarray, others: np.ndarray, view: tuple[float, float]) -> None:
    """Draw the ball as seen from one side: a disc, with points behind it hollow."""
    front = _towards(view)
    right = np.array([-np.sin(np.radians(view[1])), np.cos(np.radians(view[1])), 0.0])
    up = np.cross(front, right)
    turn = np.linspace(0, 2 * np.pi, 90)
    ax.fill(np.cos(turn), np.sin(turn), color="#F1F1F1", zorder=0)
    for height in (-0.5, 0.0, 0.5):
        wide = (1 - height**2) ** 0.5
        ring = np.stack([np.cos(turn) * wide, np.sin(turn) * wide, 0 * turn + height])
        seen = front @ ring > 0
        ax.plot(*np.where(seen, [right @ ring, up @ ring], np.nan), color="#CCCCCC", linewidth=0.6, zorder=1)
    for points, colour, marker, order in ((others, CHANCE, "s", 2), (mine, FORGET, "o", 4)):
        seen = points @ front > 0
        look = dict(s=20 if marker == "o" else 9, marker=marker, linewidths=0.9, edgecolors=colour)
        ax.scatter(points[~seen] @ right, points[~seen] @ up, facecolors="none", zorder=order - 1, **look)
        ax.scatter(points[seen] @ right, points[seen] @ up, color=colour, zorder=order, **look)
    ax.set(aspect="equal", xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), xticks=[], yticks=[], frame_on=False)


def best_dispersal(
    counts: Sequence[int], reached: Mapping[str, Sequence[float]], best: Sequence[float], title: str = ""
) -> Figure:
    """Show the nearest cosine that losses reach for n points, against the best possible. Introduced in notebook 04."""
    fig, ax = one(7.4, 3.9)
    ax.plot(counts, best, "_", color=INK, markersize=22, markeredgewidth=2.5, label="best possible, where known")
    for i, (name, values) in enumerate(reached.items()):
        look = dict(color=CYCLE[i % len(CYCLE)], marker=MARKERS[i % len(MARKERS)], linewidth=1.2)
        ax.plot(counts, values, label=words(name), **look)
    ax.set(xlabel="points of one person", ylabel="largest cosine of any two", xticks=list(counts))
    gridded(ax)
    ax.legend()
    return finished(fig, title)


def circle_scatter(configurations: Mapping[str, ArrayLike], title: str = "") -> Figure:
    """Show sets of 2-D unit vectors (n, 2) on circles, with each set's mean and nearest cosine. Notebook 03."""
    fig, axes = row_of(len(configurations), 2.3 * len(configurations), 3.5)
    turn = np.linspace(0, 2 * np.pi, 200)
    for ax, (name, points) in zip(axes, configurations.items(), strict=True):
        points = np.asarray(points, dtype=np.float64)
        cosines = points @ points.T
        off = ~np.eye(len(points), dtype=bool)
        mean, nearest = cosines[off].mean(), np.where(off, cosines, -2).max(1).mean()
        ax.plot(np.cos(turn), np.sin(turn), color="#BBBBBB", linewidth=1.5)
        for x, y in points:
            ax.plot([0, x], [0, y], color=FORGET, alpha=0.35, linewidth=1)
        ax.scatter(*points.T, color=FORGET, s=46, zorder=3, edgecolors=PAPER)
        ax.set(aspect="equal", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), xticks=[], yticks=[], frame_on=False)
        said = f"{words(name)}\nmean cosine {mean:+.2f}\nnearest cosine {nearest:+.2f}"
        ax.set_title(said, loc="center", fontsize=11)
    return finished(fig, title)


def margin_curves(scale: float = 64.0, cosface: float = 0.35, arcface: float = 0.5, title: str = "") -> Figure:
    """Show the true-class logit by angle to its centroid for plain softmax, CosFace and ArcFace. Notebook 02."""
    angle = np.linspace(0, 120, 241)
    radians = np.radians(angle)
    turned = np.where(radians + arcface < np.pi, np.cos(radians + arcface), np.nan)
    curves = {
        "no margin: s·cos θ": (scale * np.cos(radians), CHANCE, ":"),
        f"CosFace: s·(cos θ − {cosface:g})": (scale * (np.cos(radians) - cosface), RETAIN, "-"),
        f"ArcFace: s·cos(θ + {arcface:g})": (scale * turned, RETRAIN, "--"),
    }
    fig, ax = one(7.6, 3.9)
    for name, (logit, colour, line) in curves.items():
        ax.plot(angle, logit, line, color=colour, label=name)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(xlabel="angle θ between the photo and its own centroid", ylabel="logit of the true person", xlim=(0, 120))
    ax.set_xticks(range(0, 121, 15), [f"{degree}°" for degree in range(0, 121, 15)])
    gridded(ax)
    ax.legend()
    return finished(fig, title or f"Handicap for the true person, scale s = {scale:g}")
