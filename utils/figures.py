"""Every plot the notebooks show: matplotlib only, one style, one colour-blind-safe palette.

Each function takes arrays (NumPy or torch) and returns a `Figure` that pyplot does not know about: end a notebook cell
with the call and the picture appears once; nothing has to be shown or closed.
"""

from __future__ import annotations

import base64
import functools
import io
import itertools
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import get_ipython
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from numpy.typing import ArrayLike
from PIL import Image

from .alignment import AlignedFace, canonical_landmarks, similarity_transform
from .retrieval import Gallery
from .splits import PARTS, Splits
from .tables import columns, one_line
from .training import embed

# Okabe and Ito's palette: eight colours that people with any common colour vision tell apart; two of Tol's besides.
FORGET, RETAIN, UNSEEN = "#D55E00", "#0072B2", "#009E73"
ORIGINAL, RETRAIN, ACCENT = "#3B3B3B", "#CC79A7", "#56B4E9"
CHANCE, INK, PAPER = "#6B6B6B", "#222222", "#FFFFFF"
CORRECT, WRONG = "#009E73", "#882255"
CYCLE = (RETAIN, ACCENT, UNSEEN, RETRAIN, ORIGINAL, "#F0E442", "#332288")  # never FORGET: orange is who was forgotten
POOLS = {"forget": FORGET, "retain": RETAIN, "unseen": UNSEEN}
HATCHES = {"forget": "", "retain": "//", "unseen": ".."}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
BETTER = {"forget": "lower is better", "unseen": "higher is better"}
TENS, STEPS = (1, 10, 100, 1000, 10_000), (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
METRICS = {"r1": "R@1", "r5": "R@5", "map": "mAP"}
HEAT = "cividis"
FONT = "DejaVu Sans"
UNSAID = {ord("_"): " "} | dict.fromkeys(map(ord, "\u200c\u200d\ufe0e\ufe0f"))  # without a shape of their own
MOST_SAID = 600  # characters of a figure's description
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g}%")
STYLE = {
    "figure.dpi": 110, "savefig.dpi": 110, "figure.facecolor": PAPER, "savefig.facecolor": PAPER,
    "font.family": FONT, "font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11,
    "xtick.labelsize": 10, "ytick.labelsize": 10, "legend.fontsize": 10, "figure.titlesize": 13,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.titlelocation": "left",
    "axes.grid": False, "grid.color": "#DDDDDD", "grid.linewidth": 0.8, "lines.linewidth": 2.2,
    "legend.frameon": False, "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
}  # fmt: skip


class Search(NamedTuple):
    """One query and its top-k answers, ready to draw: photos uint8, hits bool (k,), cosines (k,). Notebook 03."""

    query: ArrayLike  # (3, S, S) uint8
    results: ArrayLike  # (k, 3, S, S) uint8
    correct: Sequence[bool]
    cosines: Sequence[float]
    names: Sequence[str] = ()
    title: str = ""


def use_style() -> None:
    """Set the course's look (fonts that a projector and a phone can read, 110 dpi). Introduced in notebook 00."""
    matplotlib.rcParams.update(STYLE)
    plt.switch_backend(matplotlib.get_backend())  # loads Jupyter's backend now, so that it cannot undo the next lines
    if shell := get_ipython():
        shell.display_formatter.formatters["image/png"].for_type(Figure, compact_png)


def alt_text(figure: Figure) -> str:
    """Return what a screen reader says of a figure: its titles, what its axes mean, its legend and written values.

    Every figure of the notebooks carries it. Introduced in notebook 00.
    """
    said = [figure.get_suptitle(), *(part.get_suptitle() for part in figure.subfigs)]
    pictures = sum(bool(ax.images) for ax in figure.axes)
    said += [f"{pictures} pictures"] * (pictures > 0)
    for ax in figure.axes:
        said += [ax.get_title(where) for where in ("left", "center")]
        axes = (("across", ax.get_xlabel()), ("up", ax.get_ylabel()))
        said += [f"{name}: {label}" for name, label in axes if label]
        legend = ax.get_legend_handles_labels()[1]
        said += [f"shown: {', '.join(legend)}"] if legend else []
        said += [text.get_text() for text in ax.texts]
    lines = dict.fromkeys(" ".join(str(text).replace(r"\$", "$").split()) for text in said)
    text = ". ".join(line for line in lines if line)
    return text if len(text) <= MOST_SAID else text[: MOST_SAID - 1] + "…"


def compact_png(figure: Figure) -> tuple[bytes, dict]:
    """Return a figure as PNG bytes with a palette of 256 colours, a quarter of the usual size, and its alt text.

    Introduced in notebook 00.
    """
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight", pad_inches=0.08)
    # No dithering: its speckles would cost more bytes than the shades they imitate.
    palette = Image.open(full).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette.save(small, format="png", optimize=True)
    return small.getvalue(), {"alt": alt_text(figure)}


# ----------------------------------------------------------------------------------------------- words and colours


@functools.cache
def _font_of(character: str) -> str | None:
    """Return the family of a font on this machine that has a character, the course's own before others, or None."""
    if character.isascii():
        return FONT
    for font in sorted(fontManager.ttflist, key=lambda font: (font.name != FONT, font.style != "normal", font.name)):
        try:
            if not font.name.startswith("Last Resort") and FT2Font(font.fname).get_char_index(ord(character)):
                return font.name
        except (OSError, RuntimeError):  # a font that was taken away or cannot be read
            continue
    return None


@functools.cache
def _say_what_lacks() -> None:
    """Say once that some names cannot be drawn."""
    warnings.warn(
        "No font here has all characters of some names: such a name is drawn as its label (#7) or by the codes of its "
        "characters; install a font that has them, such as Noto Sans CJK.",
        stacklevel=2,
    )


def _lacks(text: str) -> bool:
    """Say whether no font on this machine has one of the characters, and tell the reader so once."""
    lacks = not all(map(_font_of, text))
    if lacks:
        _say_what_lacks()
    return lacks


def words(text: object, length: int = 48) -> str:
    """Return any name as a figure draws it: literally, no formula, on one line of at most so many columns.

    Characters that no font here has are written as their codes. Introduced in notebook 06.
    """
    said = _plain(text)
    if _lacks(said):
        said = "".join(c if _font_of(c) else c.encode("ascii", "backslashreplace").decode() for c in said)
    whole = columns(said) <= length
    while columns(said) > length - (not whole):
        said = said[:-1]
    return said.replace("$", r"\$") + "…" * (not whole)


def lines_of(text: object) -> str:
    """Return a title as a figure draws it: its lines as `words`."""
    return "\n".join(words(line, 120) for line in str(text).split("\n"))


def _plain(text: object) -> str:
    """Return text on one line, as characters that have a shape of their own; an underscore is a space."""
    return " ".join(one_line(text).translate(UNSAID).split())


def person(label: int, names: Sequence[str]) -> str:
    """Return who has a label: the name, or the label itself (#7) where no font here has all characters of the name."""
    name = _plain(names[label])
    return f"#{label}" if not name or _lacks(name) else names[label]


def _name_of(label: int, names: Sequence[str] | None) -> str:
    return words(person(label, names), 16) if names is not None else str(label)


def colour_of(name: str, default: str) -> str:
    """Return the colour of the pool that a name speaks of (forgotten people are orange), or the default."""
    found = re.search(r"\b(forg[eo]t|retain|unseen|never-seen)", str(name).casefold())
    key = {"forgot": "forget", "never-seen": "unseen"}.get(found[1], found[1]) if found else ""
    return POOLS.get(key, default)


# ---------------------------------------------------------------------------------------------------------- helpers


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _one(width: float, height: float) -> tuple[Figure, Axes]:
    fig = _figure(width, height)
    return fig, fig.subplots()


def finished(fig: Figure, title: str = "", **look: object) -> Figure:
    """Return the figure with its title, its axes' names in their pools' colours, its words in fonts that have them."""
    fig.suptitle(lines_of(title), **look)
    for axis in (axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)):
        axis.label.set_color(colour_of(axis.label.get_text(), INK))
    texts = fig.findobj(Text)
    fonts = dict.fromkeys(_font_of(c) for c in sorted({*"".join(text.get_text() for text in texts)}))
    if more := [font for font in fonts if font not in (FONT, None)]:
        for text in texts:
            text.set_fontfamily([FONT, *more])
    return fig


def _rgb(image: ArrayLike) -> np.ndarray:
    """Turn one photo (3, S, S) uint8 into the (S, S, 3) that matplotlib draws."""
    return np.moveaxis(np.asarray(image), 0, -1)


def _photo(ax: Axes, image: ArrayLike, frame: str | None = None) -> None:
    ax.imshow(_rgb(image), interpolation="bilinear")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=frame is not None, color=frame or INK, linewidth=4)


def _grid(ax: Axes, axis: str = "both", percent: str = "") -> None:
    """Draw a grid behind the data; the axes named in `percent` count in percent."""
    ax.grid(True, axis=axis)
    ax.set_axisbelow(True)
    for name in percent:
        getattr(ax, f"{name}axis").set_major_formatter(PERCENT)
        getattr(ax, f"{name}axis").set_minor_formatter(NullFormatter())


def _log_ticks(ax: Axes, axis: str, ticks: Sequence[int], last: float = np.inf, **look: object) -> None:
    """Write plain numbers, those up to `last`, on a logarithmic axis."""
    shown = [tick for tick in ticks if tick <= last]
    getattr(ax, f"set_{axis}ticks")(shown, [f"{tick:,}" for tick in shown], **look)
    getattr(ax, f"{axis}axis").set_minor_locator(NullLocator())


def _legend_below(fig: Figure, ax: Axes, ncols: int) -> None:
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=ncols)


def _legend_right(ax: Axes) -> None:
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _shares(
    ax: Axes, values: np.ndarray, bins: np.ndarray, label: str, colour: str, line: str, width: float = 2
) -> None:
    """Draw a histogram whose heights add up to 1."""
    look = dict(histtype="stepfilled", facecolor=to_rgba(colour, 0.3), edgecolor=colour, linestyle=line)
    ax.hist(values, bins, weights=np.full(values.size, 1 / max(values.size, 1)), label=label, linewidth=width, **look)


# ----------------------------------------------------------------------------------------------------------- photos


def photo_grid(images: ArrayLike, titles: Sequence[str] | None = None, n_columns: int = 6, title: str = "") -> Figure:
    """Show photos (N, 3, S, S) uint8 row by row, each with an optional title. Introduced in notebook 00."""
    n_columns = min(n_columns, len(images))
    n_rows = -(-len(images) // n_columns)
    lines = max((str(text).count("\n") + 1 for text in titles), default=1) if titles is not None else 0
    height = 1.45 + 0.25 * min(lines, 1) + 0.2 * max(0, lines - 2)
    fig = _figure(1.45 * n_columns, height * n_rows + (0.4 if title else 0))
    for i, ax in enumerate(fig.subplots(n_rows, n_columns, squeeze=False).flat):
        if i >= len(images):
            ax.axis("off")
            continue
        _photo(ax, images[i])
        if titles is not None:
            lines = [words(line, 18) for line in str(titles[i]).split("\n")]
            ax.set_title("\n".join(lines), fontsize=9, loc="center", pad=3)
    return finished(fig, title)


def identity_rows(
    images: ArrayLike, labels: ArrayLike, names: Sequence[str] | None = None, title: str = "", n_columns: int = 8
) -> Figure:
    """Show one row per identity, its first photos side by side; `names` is indexed by label. Notebook 00."""
    labels = np.asarray(labels)
    people = list(dict.fromkeys(labels.tolist()))
    rows = [np.flatnonzero(labels == person)[:n_columns] for person in people]
    n_columns = max(len(row) for row in rows)
    fig = _figure(1.25 * n_columns + 1.3, 1.25 * len(people) + (0.4 if title else 0))
    axes = fig.subplots(len(people), n_columns, squeeze=False)
    for person, row, line in zip(people, rows, axes, strict=True):
        for k, ax in enumerate(line):
            if k < len(row):
                _photo(ax, images[row[k]])
            else:
                ax.axis("off")
        line[0].set_ylabel(_name_of(person, names), rotation=0, ha="right", va="center", labelpad=8)
    return finished(fig, title)


def alignment_steps(photo: ArrayLike, face: AlignedFace, margin: float = 0.2, title: str = "") -> Figure:
    """Show how a photo (H, W, 3) uint8 becomes a crop: photo, box and landmarks, the turned frame, the crop.

    The frame is where the crop's four corners lie in the photo. Introduced in notebook 01.
    """
    side = len(face.crop)
    meant = canonical_landmarks(side, margin)
    a, b = similarity_transform(face.landmarks, meant)
    corners = (np.array([0, side, side + 1j * side, 1j * side, 0]) - b) / a
    fig = _figure(12.6, 3.4 + (0.35 if title else 0))
    axes = fig.subplots(1, 4)
    for ax, name in zip(axes, ("1 · photo", "2 · detected", "3 · turned frame", "4 · crop"), strict=True):
        ax.imshow(face.crop if ax is axes[3] else np.asarray(photo), interpolation="bilinear")
        ax.set(xticks=[], yticks=[], frame_on=False)
        ax.set_title(name, loc="center", fontweight="bold")
    x0, y0, x1, y1 = face.box
    axes[1].plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=ACCENT)
    for ax, points in ((axes[1], face.landmarks), (axes[2], face.landmarks), (axes[3], meant)):
        marker = dict(marker="+", s=120, linewidths=2.5) if ax is axes[3] else dict(marker="o", s=34, edgecolors=INK)
        ax.scatter(*np.asarray(points).T, color="#F0E442", zorder=3, **marker)
    axes[2].plot(corners.real, corners.imag, color=ACCENT)
    axes[2].plot(corners.real[:2], corners.imag[:2], color=RETRAIN, linewidth=4)  # which side becomes the top
    for ax in axes[1:3]:
        ax.set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())
    axes[1].set_xlabel(f"a face: {face.confidence:.0%} sure")
    axes[2].set_xlabel(f"turned {np.degrees(np.angle(a)):+.0f}°, × {abs(a):.2f}")
    axes[3].set_xlabel("+ where landmarks belong")
    return finished(fig, title)


def _strip(axes: Sequence[Axes], search: Search) -> None:
    """Draw one search into len(axes) = 1 + k axes: the query, then the answers with frame, symbol and cosine."""
    _photo(axes[0], search.query, INK)
    axes[0].set_title("query", fontsize=11, loc="center", pad=6, fontweight="bold")
    for k, ax in enumerate(axes[1:]):
        if k >= len(search.results):
            ax.axis("off")
            continue
        hit = bool(search.correct[k])
        _photo(ax, search.results[k], CORRECT if hit else WRONG)
        mark = dict(color=CORRECT if hit else WRONG, loc="center", pad=6, fontweight="bold")
        ax.set_title(f"{k + 1}  {'✓' if hit else '✗'}", fontsize=12, **mark)
        name = f"{words(search.names[k], 13)}\n" if len(search.names) else ""
        ax.set_xlabel(f"{name}cos {float(search.cosines[k]):.2f}", fontsize=9.5, labelpad=4)


def search_strip(
    query: ArrayLike,
    results: ArrayLike,
    correct: Sequence[bool],
    cosines: Sequence[float],
    names: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Show a query and its top-k gallery photos: ✓ or ✗, a coloured frame, the cosine below. Notebook 03."""
    return search_strips([Search(query, results, correct, cosines, names, title)])


def run_searches(
    model: torch.nn.Module, splits: Splits, photos: Sequence[int], k: int = 6, titles: Sequence[str] = ()
) -> list[Search]:
    """Search the splits' gallery with some photos, by index, and return each one's k best answers. Notebook 00."""
    faces, gallery = splits.faces, splits.gallery
    index = Gallery(embed(model, faces, gallery), faces.labels[gallery], photo_ids=gallery)
    k = min(k, len(gallery) - 1)  # a photo does not find itself
    cosines, rows = index.search(embed(model, faces, photos), k, query_ids=photos)
    searches = []
    for i, photo in enumerate(photos):
        found = gallery[rows[i]]
        names = [person(label, faces.identities) for label in faces.labels[found]]
        correct = faces.labels[found] == faces.labels[photo]
        title = titles[i] if titles else person(faces.labels[photo], faces.identities)
        searches.append(Search(faces.images([photo])[0], faces.images(found), correct, cosines[i], names, title))
    return searches


def search_strips(searches: Sequence[Search], title: str = "") -> Figure:
    """Show several searches, one row each, with each row's own title above it. Introduced in notebook 03."""
    k = max(len(search.results) for search in searches)
    named = any(len(search.names) for search in searches)
    fig = _figure(1.45 * (k + 1), (2.3 if named else 2.1) * len(searches) + (0.4 if title else 0))
    rows = fig.subfigures(len(searches), 1, squeeze=False)[:, 0]
    for row, search in zip(rows, searches, strict=True):
        _strip(row.subplots(1, k + 1), search)
        row.suptitle(words(search.title), x=0.01, ha="left", fontsize=12)
    return finished(fig, title, fontweight="bold")


def before_after_search(before: Sequence[Search], after: Sequence[Search], title: str = "") -> Figure:
    """Show each query twice, before and after unlearning, one row above the other. Introduced in notebook 08."""
    rows = []
    for old, new in zip(before, after, strict=True):
        rows += [old._replace(title=f"{old.title} · before"), new._replace(title=f"{new.title} · after unlearning")]
    return search_strips(rows, title)


def take_home(
    before: Search, after: Search, ranks: Mapping[str, tuple[float, float]], gallery_size: int, title: str = ""
) -> Figure:
    """Show one person's page: a search before and after, and the rank of the first right photo by way of looking.

    `ranks` holds (before, after) for every way. Introduced in notebook 11.
    """
    fig = _figure(1.5 * (len(before.results) + 1), 8.2)
    top, middle, bottom = fig.subfigures(3, 1, height_ratios=(2.5, 2.5, 2.6))
    for part, search, when in ((top, before, "before"), (middle, after, "after unlearning")):
        _strip(part.subplots(1, len(search.results) + 1), search)
        part.suptitle(when, x=0.01, ha="left", fontsize=12)
    ax = bottom.subplots()
    for place, (old, new) in enumerate(ranks.values()):
        ax.plot([old, new], [-place, -place], color="#BBBBBB", linewidth=3, zorder=1)
        ax.scatter([old], [-place], color=ORIGINAL, marker="s", s=60, zorder=3, label="before" * (not place))
        ax.scatter([new], [-place], color=FORGET, s=80, zorder=3, label="after" * (not place))
        ax.text(gallery_size * 1.15, -place, f"{old:.0f} → {new:.0f}", va="center", fontsize=10)
    ax.set_yticks([-place for place in range(len(ranks))], [words(way) for way in ranks])
    ax.set(xscale="log", xlim=(0.8, gallery_size), ylim=(0.6 - len(ranks), 0.6))
    _log_ticks(ax, "x", TENS, gallery_size)
    ax.set_xlabel(f"rank of the first right photo, of {gallery_size:,} (1 = found at once)")
    _grid(ax, "x")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=2)
    return finished(fig, title, fontweight="bold")


# ------------------------------------------------------------------------------------------- cosines and embeddings


def similarity_heatmap(
    embeddings: ArrayLike | Mapping[str, ArrayLike],
    labels: ArrayLike,
    names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Show all cosines among a few people's photos, (N, d) unit rows; a mapping title -> embeddings gives panels.

    Rows are sorted by label, one colour scale is shared by all panels. Introduced in notebook 02.
    """
    panels = embeddings if isinstance(embeddings, Mapping) else {"": embeddings}
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    people, starts = np.unique(labels[order], return_index=True)
    edges = np.append(starts, len(labels))
    fig = _figure(5.0 * len(panels) + 0.9, 4.9)
    axes = fig.subplots(1, len(panels), squeeze=False)[0]
    for ax, (name, emb) in zip(axes, panels.items(), strict=True):
        emb = np.asarray(emb)[order]
        drawn = ax.imshow(emb @ emb.T, vmin=-0.2, vmax=1, cmap=HEAT, interpolation="nearest")
        middles = (edges[:-1] + edges[1:] - 1) / 2
        shown = [_name_of(label, names) for label in people]
        ax.set_xticks(middles, shown, rotation=30, ha="right", rotation_mode="anchor")
        ax.set_yticks(middles, shown)
        for edge in edges[1:-1]:
            ax.axhline(edge - 0.5, color=PAPER, linewidth=1.5)
            ax.axvline(edge - 0.5, color=PAPER, linewidth=1.5)
        ax.set_title(words(name))
    fig.colorbar(drawn, ax=axes, label="cosine", shrink=0.85, extend="min")
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
    fig, ax = _one(7.6, 3.8)
    for values, name, colour, line in ((different, names[0], CHANCE, "--"), (same, names[1], RETAIN, "-")):
        _shares(ax, values, bins, f"{words(name)} ({values.size:,} {unit})", colour_of(name, colour), line)
    if threshold is not None:
        ax.axvline(threshold, color=INK, linewidth=1.5, label=f"threshold {threshold:.2f}")
    ax.set(xlabel=xlabel, ylabel=f"share of {unit}", yscale="log" if log else "linear")
    _grid(ax, "y", "y")
    _legend_below(fig, ax, 3)
    return finished(fig, title)


def to_sphere(embeddings: ArrayLike, reference: ArrayLike | None = None) -> np.ndarray:
    """Project (N, d) unit rows onto three directions and back to length 1, (N, 3).

    The directions are those along which `reference` (default: the embeddings themselves) varies most; the same
    reference makes pictures before and after comparable. Introduced in notebook 02.
    """
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
    """Show points (N, 3) on the ordinary sphere, coloured by label; points behind the ball are paler. Notebook 02.

    The people with labels in `forget` are orange, one by one told apart by their marks.
    """
    panels = points if isinstance(points, Mapping) else {"": points}
    labels = np.asarray(labels)
    kept = iter(CYCLE * len(labels))
    colours = {label: FORGET if label in forget else next(kept) for label in dict.fromkeys(labels.tolist())}
    fig = _figure(4.7 * len(panels) + 1.4, 4.7)
    axes = fig.subplots(1, len(panels), squeeze=False, subplot_kw={"projection": "3d", "computed_zorder": False})[0]
    for ax, (name, xyz) in zip(axes, panels.items(), strict=True):
        _wireframe(ax, view)
        xyz = np.asarray(xyz)
        front = xyz @ _towards(view) > 0
        for i, (label, colour) in enumerate(colours.items()):
            for side, alpha, order in ((~front, 0.7, 1), (front, 0.95, 3)):
                chosen = xyz[(labels == label) & side]
                look = dict(color=colour, marker=MARKERS[i % len(MARKERS)], s=34, alpha=alpha, zorder=order)
                ax.scatter(*chosen.T, depthshade=False, edgecolors=PAPER, linewidths=0.4, **look)
            ax.scatter([], [], [], color=colour, marker=MARKERS[i % len(MARKERS)], s=40, label=_name_of(label, names))
        ax.set_title(words(name), loc="center")
    handles, texts = axes[-1].get_legend_handles_labels()
    fig.legend(handles, texts, loc="outside right center", ncols=1 + len(texts) // 14)
    return finished(fig, title)


def facing(points: ArrayLike) -> tuple[float, float]:
    """Return the view (elevation, azimuth in degrees) from which points (n, 3) lie in front, a little to one side.

    Introduced in notebook 04.
    """
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
    """Show points on their way over the ordinary sphere, a row per journey (steps, n, 3), a column per moment.

    `others` (m, 3) are people who stay where they are; `notes` is what is written at the end of a row. Notebook 04.
    """
    fig = _figure(1.75 * len(moments) + 3.4, 1.75 * len(journeys) + 0.7)
    axes = fig.subplots(len(journeys), len(moments), squeeze=False)
    for row, (name, places) in zip(axes, journeys.items(), strict=True):
        for ax, moment in zip(row, moments, strict=True):
            _disc(ax, np.asarray(places)[moment], np.asarray(others), view)
            if ax in axes[0]:
                ax.set_title(f"step {moment}" if moment else "before", loc="center", fontsize=10)
        row[0].text(-1.25, 0, words(name).replace(" ", "\n"), ha="right", va="center", fontsize=10, fontweight="bold")
        row[-1].text(1.25, 0, lines_of(notes.get(name, "")), va="center", fontsize=9.5)
    return finished(fig, title)


def moving_spheres(
    journeys: Mapping[str, ArrayLike],
    others: ArrayLike,
    title: str = "",
    view: tuple[float, float] = (18, 35),
    frames: int = 24,
) -> HTML:
    """Show several journeys (steps, n, 3) over the sphere as one small animated picture that needs no player.

    It is an image of its own inside the page, and loops; `sphere_film` shows the same for print. Notebook 04.
    """
    columns = -(-len(journeys) // 2)
    last = min(len(places) for places in journeys.values()) - 1
    pictures = []
    for moment in np.unique(np.linspace(0, last**0.5, frames).round(3) ** 2).round().astype(int):
        fig = Figure(figsize=(1.75 * columns, 4.2), layout="constrained", dpi=80)
        axes = list(fig.subplots(2, columns, squeeze=False).flat)
        for ax, (name, places) in zip(axes, journeys.items(), strict=False):
            _disc(ax, np.asarray(places)[moment], np.asarray(others), view)
            ax.set_title(words(name), loc="center", fontsize=10)
        for ax in axes[len(journeys) :]:
            ax.axis("off")
        page = io.BytesIO()
        finished(fig, f"{title} · step {moment}", fontsize=11).savefig(page, format="png")
        pictures.append(Image.open(page).convert("RGB"))
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
        ring = np.stack(
            [np.cos(turn) * (1 - height**2) ** 0.5, np.sin(turn) * (1 - height**2) ** 0.5, 0 * turn + height]
        )
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
    fig, ax = _one(7.4, 3.9)
    ax.plot(counts, best, "_", color=INK, markersize=22, markeredgewidth=2.5, label="best possible, where known")
    for i, (name, values) in enumerate(reached.items()):
        ax.plot(
            counts,
            values,
            color=CYCLE[i % len(CYCLE)],
            marker=MARKERS[i % len(MARKERS)],
            linewidth=1.2,
            label=words(name),
        )
    ax.set(xlabel="points of one person", ylabel="largest cosine of any two", xticks=list(counts))
    _grid(ax)
    ax.legend()
    return finished(fig, title)


def circle_scatter(configurations: Mapping[str, ArrayLike], title: str = "") -> Figure:
    """Show sets of 2-D unit vectors (n, 2) on circles, with each set's mean and nearest cosine. Notebook 03."""
    fig = _figure(3.3 * len(configurations), 4.4)
    axes = fig.subplots(1, len(configurations), squeeze=False)[0]
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
        ax.set_title(
            f"{words(name)}\nmean cosine {mean:+.2f}\nnearest cosine {nearest:+.2f}", loc="center", fontsize=11
        )
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
    fig, ax = _one(7.6, 3.9)
    for name, (logit, colour, line) in curves.items():
        ax.plot(angle, logit, line, color=colour, label=name)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(xlabel="angle θ between the photo and its own centroid", ylabel="logit of the true person", xlim=(0, 120))
    ax.set_xticks(range(0, 121, 15), [f"{degree}°" for degree in range(0, 121, 15)])
    _grid(ax)
    ax.legend()
    return finished(fig, title or f"Handicap for the true person, scale s = {scale:g}")


# --------------------------------------------------------------------------------------------- people and their photos


def photos_per_person(labels: ArrayLike, minimum: int | None = None, title: str = "") -> Figure:
    """Show how many photos each person has, most photographed first, with the least that training asks. Notebook 01."""
    counts = np.sort(np.unique(np.asarray(labels), return_counts=True)[1])[::-1]
    fig, ax = _one(7.6, 3.4)
    ax.stairs(counts, np.arange(len(counts) + 1) + 0.5, fill=True, color=to_rgba(RETAIN, 0.55))
    if minimum is not None:
        enough = int((counts >= minimum).sum())
        label = f"training asks for {minimum} photos: {enough} of {len(counts)} people have them"
        ax.axhline(minimum, color=INK, linestyle="--", linewidth=1.5, label=label)
        _legend_below(fig, ax, 3)
    ax.set(xlabel="people, most photographed first", ylabel="photos", yscale="log", xlim=(0.5, len(counts) + 0.5))
    _log_ticks(ax, "y", STEPS, 1.2 * counts.max())
    ax.set_ylim(bottom=0.8)
    _grid(ax, "y")
    return finished(fig, title)


def split_map(splits: Splits, title: str = "") -> Figure:
    """Show every person as a column of photos, pool by pool, coloured by the part each photo plays. Notebook 01."""
    parts = {"train": to_rgba(ORIGINAL, 0.45), "query": RETRAIN, "gallery": ACCENT}
    pools = [pool for pool in ("forget", "dev_forget", "retain", "unseen", "distractors") if getattr(splits, pool)]
    fig, ax = _one(11.0, 4.2)
    left, places, names = 0.0, [], []
    line = 0.5 if splits.n_identities <= 200 else 0.0
    for pool in pools:
        people = np.asarray(getattr(splits, pool))
        photos = splits.faces.labels[np.concatenate([splits.photos(pool, part) for part in PARTS])]
        people = people[np.argsort(-np.bincount(photos)[people], kind="stable")]
        room = max(len(people), 0.1 * splits.n_identities)  # a small pool is widened: its name must fit below
        width, bottom = room / len(people), np.zeros(len(people))
        for part in PARTS:
            counts = np.bincount(splits.faces.labels[splits.photos(pool, part)], minlength=photos.max() + 1)[people]
            middles = left + width * (np.arange(len(people)) + 0.5)
            label = part if pool == pools[0] else None
            ax.bar(middles, counts, width, bottom, color=parts[part], label=label, edgecolor=PAPER, linewidth=line)
            bottom = bottom + counts
        places.append(left + room / 2)
        names.append(f"{pool.replace('_', '-')}\n{len(people)} people")
        left += room + 0.02 * splits.n_identities
    sizes = np.unique(splits.faces.labels, return_counts=True)[1]
    top = min(sizes.max(), 3 * np.median(sizes) + 20)  # whoever has many more photos is cut off
    ax.set(ylabel="photos", ylim=(0, 1.05 * top), xlim=(-0.01 * left, left))
    ax.set_xticks(places, names)
    ax.tick_params(axis="x", length=0)
    _grid(ax, "y")
    _legend_below(fig, ax, 3)
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
    fig = _figure(max(6.5, 0.46 * n_shown + 1.2), 3.9)
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
    fig, ax = _one(6.6, 4.0)
    ax.plot(np.maximum(far, floor), tar, color=RETAIN, label="this model")
    chance = np.geomspace(floor, 1, 100)
    ax.plot(chance, chance, ":", color=CHANCE, label="guessing")
    if mark is not None:
        height = np.interp(mark, far, tar)
        ax.plot([mark], [height], "o", color=INK, markersize=9)
        note = f"TAR {height:.0%} at FAR {mark:.1%}"
        ax.annotate(note, (mark, height), (10, -8), textcoords="offset points", va="top")
    ax.set(xscale="log", xlabel="FAR: strangers let in", ylabel="TAR: true pairs accepted", ylim=(0, 1.03))
    _grid(ax, percent="xy")
    ax.legend(loc="lower right")
    return finished(fig, title)


def rank_histogram(
    before: ArrayLike, after: ArrayLike, gallery_size: int | None = None, title: str = "", random: float | None = None
) -> Figure:
    """Show at which rank (from 1) the first correct photo comes, before and after; log axis. Notebook 08."""
    before, after = np.asarray(before), np.asarray(after)
    last = gallery_size or int(max(before.max(), after.max()))
    edges = _rank_edges(last)
    fig, ax = _one(7.6, 3.8)
    for values, name, colour, line in ((before, "before", ORIGINAL, "--"), (after, "after", FORGET, "-")):
        _shares(ax, values, edges, f"{name}: median rank {np.median(values):g}", colour, line)
    if random is not None:
        ax.axvline(random, color=CHANCE, linestyle=":", label=f"random order: about {random:.0f}")
    ax.set(xscale="log", xlabel="rank of the first correct photo (1 = found at once)", ylabel="share of queries")
    _log_ticks(ax, "x", STEPS, last)
    _grid(ax, "y", "y")
    _legend_below(fig, ax, 3)
    return finished(fig, title)


def _rank_edges(last: int) -> np.ndarray:
    """Bin edges that give rank 1 a bin of its own and about six bins per factor of ten after it."""
    edges = np.unique(np.round(np.geomspace(1, last + 1, int(6 * np.log10(last + 1)) + 2)))
    return edges - 0.5


def identity_dots(values: Mapping[str, ArrayLike], ylabel: str, title: str = "", chance: float | None = None) -> Figure:
    """Show one dot per identity and the median of each pool; keys name the pools. Introduced in notebook 03."""
    fig, ax = _one(max(5.5, 1.7 * len(values) + 1.5), 4.0)
    rng = np.random.default_rng(0)
    for i, (name, scores) in enumerate(values.items()):
        scores = np.asarray(scores, dtype=np.float64)
        colour = colour_of(name, colour_of(ylabel, CYCLE[i % len(CYCLE)]))
        spread = rng.uniform(-0.22, 0.22, len(scores))
        ax.scatter(
            i + spread, scores, color=colour, s=30, alpha=0.65, marker=MARKERS[i % len(MARKERS)], edgecolors=PAPER
        )
        ax.hlines(np.median(scores), i - 0.32, i + 0.32, color=INK, linewidth=2.5)
    if chance is not None:
        ax.axhline(chance, color=CHANCE, linestyle=":", label="chance")
        _legend_below(fig, ax, 3)
    ax.set_xticks(range(len(values)), [f"{lines_of(name)}\n({len(scores)})" for name, scores in values.items()])
    ax.set(ylabel=ylabel, xlim=(-0.6, len(values) - 0.4))
    _grid(ax, "y")
    return finished(fig, title)


# ----------------------------------------------------------------------------------------------- unlearning results


def score_bars(
    results: Mapping[str, Mapping], metrics: Sequence[str] = ("r1", "map"), title: str = "Held-out photos"
) -> Figure:
    """Show forget, retain and unseen scores with chance lines, {method: evaluate(...)}. Introduced in notebook 08."""
    fig = _figure(max(7.0, 1.35 * len(results) + 1.8), 2.75 * len(metrics) + 0.7)
    axes = fig.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for ax, metric in zip(axes, metrics, strict=True):
        for j, (pool, colour) in enumerate(POOLS.items()):
            heights = [scores[pool][metric] for scores in results.values()]
            places = np.arange(len(results)) + 0.27 * (j - 1)
            fill = dict(color=to_rgba(colour, 0.85), hatch=HATCHES[pool], edgecolor=PAPER)
            bars = ax.bar(places, heights, 0.25, label=pool, **fill)
            ax.bar_label(bars, [f"{100 * height:.0f}" for height in heights], fontsize=9, padding=2)
        for i, scores in enumerate(results.values()):
            ax.hlines(scores["chance"][metric], i - 0.45, i + 0.45, color=INK, linewidth=1.6, linestyle=":")
        ax.plot([], [], ":", color=INK, label="chance")
        ax.set(ylabel=METRICS.get(metric, metric), ylim=(0, 1.12))
        _grid(ax, "y", "y")
    axes[-1].set_xticks(range(len(results)), [words(name).replace(" ", "\n") for name in results])
    _legend_below(fig, axes[0], 4)
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
    """Show one method before and after in one strip: cosines within one person, first ranks, and scores.

    `person_*` are unit rows (n, d) of one forget person's photos, `ranks_*` the first right rank of each forget query,
    `bars_*` shares by name; a name that starts with a pool takes the pool's colour. Introduced in notebook 05.
    """
    fig = _figure(10.4, 2.75)
    left, middle, right = fig.subfigures(1, 3, width_ratios=(4.1, 3.3, 3.4))
    _cosine_squares(left, {"before": person_before, "after": person_after}, f"cosines: {words(person, 16)}")
    _rank_steps(middle.subplots(), np.asarray(ranks_before), np.asarray(ranks_after), gallery_size)
    _paired_bars(right.subplots(), bars_before, bars_after)
    return finished(fig, title, fontsize=12)


def _cosine_squares(fig: SubFigure, panels: Mapping[str, ArrayLike], label: str) -> None:
    axes = fig.subplots(1, len(panels))
    for ax, (name, points) in zip(axes, panels.items(), strict=True):
        points = np.asarray(points)
        drawn = ax.imshow(points @ points.T, vmin=-0.2, vmax=1, cmap=HEAT, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=10, loc="center")
    bar = fig.colorbar(drawn, ax=axes, location="bottom", shrink=0.75, aspect=24, ticks=[0, 0.5, 1], extend="min")
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _rank_steps(ax: Axes, before: np.ndarray, after: np.ndarray, last: int) -> None:
    edges = _rank_edges(last)
    for values, name, colour, line in ((before, "before", ORIGINAL, "--"), (after, "after", FORGET, "-")):
        values = values[np.isfinite(values)]
        _shares(ax, values, edges, f"{name}: median {np.median(values):g}", colour, line, 1.5)
    ax.set(xscale="log", xlim=(0.5, last + 1), ylim=(0, 1.03))
    _log_ticks(ax, "x", TENS, last, fontsize=9)
    ax.set_xlabel("first right photo at rank", fontsize=9)
    ax.set_title("forget queries", fontsize=10)
    ax.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"], fontsize=9)
    _grid(ax, "y")
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
    _grid(ax, "y")


def pareto(
    results: Mapping[str, Mapping],
    metric: str = "map",
    title: str = "Held-out photos",
    named: Sequence[str] | None = None,
) -> Figure:
    """Show forget against retain with unseen as colour, one point per method; best is lower right. Notebook 08.

    With many methods `named` says which of them are written beside their points.
    """
    forget, retain, unseen = (np.array([s[pool][metric] for s in results.values()]) for pool in POOLS)
    short = METRICS.get(metric, metric)
    fig, ax = _one(7.4, 4.8)
    look = dict(c=unseen, cmap=HEAT, vmin=min(unseen.min(), 0.5), vmax=max(unseen.max(), 0.9))
    dots = ax.scatter(retain, forget, s=130, edgecolors=INK, zorder=3, **look)
    shown = [i for i, name in enumerate(results) if named is None or name in named]
    _spread_labels(ax, retain, forget, [words(name) for name in results], shown)
    chance = np.mean([scores["chance"][metric] for scores in results.values()])
    ax.axhline(chance, color=CHANCE, linestyle=":", linewidth=1.6)
    ax.text(0.01, chance, "chance", transform=ax.get_yaxis_transform(), color=CHANCE, va="bottom", fontsize=10)
    ax.set(xlabel=f"retain {short} (higher is better)", ylabel=f"forget {short} (lower is better)")
    bar = fig.colorbar(dots, ax=ax, label=f"unseen {short}")
    bar.ax.yaxis.set_major_formatter(PERCENT)
    ax.set_xlim(right=min(ax.get_xlim()[1], 1.01))  # nothing is beyond 100 %
    _grid(ax, percent="xy")
    return finished(fig, title)


def _spread_labels(ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str], shown: Sequence[int]) -> None:
    """Write the shown names beside their points: to the side with more room, and apart where points crowd."""
    ax.set_xlim(min(x.min(), 0.0) if x.min() < 0.5 else x.min() - 0.08, min(max(x.max() + 0.06, 0.2), 1.04))
    ax.set_ylim(-0.05, max(1.0, y.max() * 1.12))
    middle = sum(ax.get_xlim()) / 2
    used: list[tuple[float, float]] = []
    for i in sorted(shown, key=lambda i: y[i]):
        height = y[i]
        near = [other for place, other in used if abs(x[i] - place) < 0.3 * np.ptp(ax.get_xlim())]
        while any(abs(height - other) < 0.05 for other in near):
            height += 0.02
        used.append((x[i], height))
        side = -1 if x[i] > middle else 1
        beside = (x[i] + side * 0.03 * np.ptp(ax.get_xlim()), height)
        leader = dict(arrowstyle="-", color=CHANCE, linewidth=0.8, shrinkA=0, shrinkB=0)
        align = dict(ha="right" if side < 0 else "left", va="center", fontsize=10)
        ax.annotate(names[i], (x[i], y[i]), beside, arrowprops=leader, **align)


# what else a diary holds: neither a loss nor a cosine
NO_LOSSES = ("step", "moved", "dev_map", "name_error", "noise_norm", "damped", "erased")


def history_curves(history: Sequence[Mapping[str, float]] | Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """Show losses (left) and cosines (right) by step, given as records or as columns. Introduced in notebook 08."""
    diary = history if isinstance(history, Mapping) else _columns(history)
    length = max(len(values) for values in diary.values())
    steps = diary.get("step", np.arange(1, length + 1))
    losses = [key for key in diary if key not in NO_LOSSES and "cosine" not in key]
    cosines = [key for key in diary if "cosine" in key]
    groups = [(keys, label) for keys, label in ((losses, "loss"), (cosines, "cosine of forget photos")) if keys]
    fig = _figure(4.9 * max(len(groups), 1), 3.9)
    for ax, (keys, label) in zip(fig.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for i, key in enumerate(keys):
            look = dict(color=colour_of(key, (ORIGINAL, ACCENT, RETRAIN, CHANCE)[i % 4]), label=words(key))
            ax.plot(steps, diary[key], ("-", "--", "-.", ":")[i % 4], **look)
        ax.set(xlabel="step", ylabel=label)
        _grid(ax)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return finished(fig, title)


def _columns(records: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: [record.get(key, np.nan) for record in records] for key in keys}


def pair_weights(cosines: ArrayLike, sharpness: Sequence[float] = (2, 10, 40), title: str = "") -> Figure:
    """Show which share of the push each pair gets under mean, log-sum-exp and hardest-pair losses. Notebook 08."""
    cosines = np.sort(np.asarray(cosines, dtype=np.float64).ravel())
    curves = [("mean (β → 0)", np.full(cosines.size, 1 / cosines.size), CHANCE, "-")]
    for beta, colour, line in zip(sharpness, (ACCENT, RETAIN, UNSEEN), ("--", "-.", (0, (5, 1))), strict=False):
        weights = np.exp(beta * (cosines - cosines.max()))
        curves.append((f"log-sum-exp, β = {beta:g}", weights / weights.sum(), colour, line))
    fig, ax = _one(7.2, 4.1)
    for name, weights, colour, line in curves:
        ax.plot(cosines, weights, linestyle=line, color=colour, label=name)
    ax.plot([cosines[-1]], [1.0], "*", color=RETRAIN, markersize=16, label="hardest pair (β → ∞)", clip_on=False)
    ax.set(xlabel="cosine of the pair", ylabel="share of the push", yscale="log", ylim=(1e-6, 1.5))
    _grid(ax, percent="y")
    _legend_right(ax)
    return finished(fig, title or f"Who gets pushed: {cosines.size:,} pairs of one person")


def steps_diagram(steps: Sequence[tuple[str, str]], title: str = "") -> Figure:
    """Show a chain of boxes joined by arrows, each a (name, explanation) pair. Introduced in notebook 00."""
    fig, ax = _one(2.05 * len(steps) + 0.3, 1.3 + (0.35 if title else 0))
    for i, (name, explanation) in enumerate(steps):
        look = dict(facecolor=to_rgba(CYCLE[i % 6], 0.16), edgecolor=CYCLE[i % 6], linewidth=1.8)
        box = dict(boxstyle="round,pad=0.5", **look)
        ax.text(i, 0.62, lines_of(name), ha="center", va="center", fontsize=12, fontweight="bold", bbox=box)
        ax.text(i, 0.25, lines_of(explanation), ha="center", va="top", fontsize=9.5)
        if i:
            arrow = dict(arrowstyle="-|>", color=INK, linewidth=1.6)
            ax.annotate("", (i - 0.34, 0.62), (i - 0.66, 0.62), arrowprops=arrow)
    ax.set(xlim=(-0.55, len(steps) - 0.45), ylim=(-0.25, 0.95))
    ax.axis("off")
    return finished(fig, title)


def ablation_dots(lines: Sequence[tuple[str, str, Sequence[Mapping]]], title: str = "") -> Figure:
    """Show what each variant leaves findable and what it costs: a dot per seed, forget mAP and unseen mAP by line.

    `lines` are (group, label, trials), as `ablation.ablation_lines` returns them. Introduced in notebook 08.
    """
    fig = _figure(9.6, 0.3 * len(lines) + 1.2)
    axes = fig.subplots(1, 2, sharey=True)
    start = lines[0][2][0]
    groups = {group: i % len(CYCLE) for i, group in enumerate(dict.fromkeys(group for group, _, _ in lines))}
    looks = {group: dict(color=CYCLE[i], marker=MARKERS[i], s=48) for group, i in groups.items()}
    for ax, (pool, better) in zip(axes, BETTER.items(), strict=True):
        for place, (group, _, trials) in enumerate(lines):
            scores = [trial[pool]["map"] for trial in trials]
            ax.hlines(-place, min(0, *scores), np.mean(scores), color="#DDDDDD", zorder=1)
            ax.scatter(scores, [-place] * len(scores), edgecolors=PAPER, zorder=3, **looks[group])
        ax.axvline(start[pool]["map"], color=ORIGINAL, linestyle=":", linewidth=1.5)
        ax.set(xlabel=f"{pool} mAP ({better})", xlim=(-0.02, 1.04), ylim=(0.7 - len(lines), 0.7))
        ax.xaxis.set_major_formatter(PERCENT)
    for place, (group, _, _) in enumerate(lines):
        if place and group != lines[place - 1][0]:
            for ax in axes:
                ax.axhline(0.5 - place, color=INK, linewidth=0.8)
    axes[0].set_yticks([-place for place in range(len(lines))], [words(label) for _, label, _ in lines], fontsize=9)
    for group, look in looks.items():
        axes[0].scatter([], [], label=words(group), **look)
    _legend_below(fig, axes[0], len(groups))
    return finished(fig, title)


def _method_looks(names: Iterable[str]) -> dict[str, dict]:
    """Return colour, mark and label of each method's line; the two references always have the same colours."""
    free = itertools.cycle(colour for colour in CYCLE if colour not in (ORIGINAL, RETRAIN))
    fixed = {"original": ORIGINAL, "retrain": RETRAIN}
    marks = itertools.cycle(MARKERS)
    return {name: dict(color=fixed.get(name) or next(free), marker=next(marks), label=words(name)) for name in names}


def cost_bars(costs: Mapping[str, float], unit: str, title: str = "", whole: str = "retrain") -> Figure:
    """Show what each method costs as bars on a log axis, with its share of `whole`'s price. Notebook 09."""
    names, prices = list(costs), np.array(list(costs.values()), dtype=np.float64)
    least = prices[prices > 0].min() / 3
    fig, ax = _one(8.0, 0.27 * len(names) + 1.2)
    colours = [RETRAIN if name == whole else RETAIN for name in names]
    ax.barh(range(len(names)), np.maximum(prices, least) - least, left=least, color=colours, height=0.7)
    for place, price in enumerate(prices):
        share = f"  {price / costs[whole]:.1%} of {words(whole)}" if whole in costs and names[place] != whole else ""
        ax.text(max(price, least) * 1.06, place, f"{price:,.0f}{share}", va="center", fontsize=9)
    ax.set(xscale="log", xlabel=unit, xlim=(least, prices.max() * 12), ylim=(len(names) - 0.4, -0.6))
    ax.set_yticks(range(len(names)), [words(name) for name in names], fontsize=9)
    _log_ticks(ax, "x", [10**power for power in range(12) if least <= 10**power <= 12 * prices.max()])
    _grid(ax, "x")
    return finished(fig, title)


def size_lines(scores: Mapping[str, Mapping[int, Mapping[str, float]]], title: str = "") -> Figure:
    """Show forget and unseen mAP by how many people are forgotten: {method: {people: {pool: mAP}}}. Notebook 09."""
    fig = _figure(9.4, 4.0)
    axes = fig.subplots(1, 2)
    looks = _method_looks(scores)
    for ax, (pool, better) in zip(axes, BETTER.items(), strict=True):
        for name, by_size in scores.items():
            ax.plot(list(by_size), [by_size[size][pool] for size in by_size], linewidth=1.8, **looks[name])
        sizes = sorted({size for by_size in scores.values() for size in by_size})
        ax.set(xscale="log", xlabel="people forgotten", ylabel=f"{pool} mAP ({better})", ylim=(0, 1.03))
        _log_ticks(ax, "x", sizes)
        _grid(ax, percent="y")
    _legend_below(fig, axes[0], 4)
    return finished(fig, title)


def request_lines(runs: Mapping[str, Sequence[Sequence[Mapping]]], title: str = "") -> Figure:
    """Show how groups of people fare as requests follow one another: {method: one list of states per seed}.

    A state holds the mAP of every group and of the unseen people; lines are means over seeds. Notebook 09.
    """
    fig = _figure(2.9 * len(runs) + 0.6, 3.8)
    axes = fig.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for ax, (name, seeds) in zip(axes, runs.items(), strict=True):
        groups = np.mean([[state["groups"] for state in states] for states in seeds], axis=0)
        unseen = np.mean([[state["unseen"] for state in states] for states in seeds], axis=0)
        steps = np.arange(len(groups))
        for group, heights in enumerate(groups.T):
            look = dict(linestyle=("-", "--", "-.", (0, (5, 1)))[group % 4], marker=MARKERS[group % len(MARKERS)])
            ax.plot(steps, heights, color=FORGET, label=f"forget, request {group + 1}", **look)
        ax.plot(steps, unseen, ":", color=UNSEEN, label="unseen people")
        ax.set(xlabel="requests answered", xticks=steps, ylim=(-0.02, 1.03))
        ax.set_title(words(name), fontsize=10, loc="center")
        _grid(ax, percent="y")
    axes[0].set_ylabel("mAP, held-out queries")
    _legend_below(fig, axes[0], groups.shape[1] + 1)
    return finished(fig, title)


# -------------------------------------------------------------------------------------------------------- the audit

GOALS = {"chance": "chance", "unseen": "never-seen people", "retrained": "retrained model", "half": "0.5"}
HOLDERS = {
    "photos": "with photos only",
    "names": "with a few named photos",
    "old gallery": "with the old gallery",
    "weights": "with the model's weights",
}


def audit_page(rows: Sequence[Mapping], title: str = "") -> Figure:
    """Show one method's audit, a line per attack in groups by what the attacker holds: method, original and target.

    `rows` are what `audit.audit` returns; attacks that do not apply are left out. Introduced in notebook 10.
    """
    lines = _audit_lines(rows)
    fig, ax = _one(9.4, 0.27 * len(lines) + 1.3)
    heights = -np.arange(len(lines))
    for height, (label, row) in zip(heights, lines, strict=True):
        if row is None:
            ax.text(-0.02, height - 0.1, words(label), ha="right", va="center", fontweight="bold", fontsize=10)
            continue
        ax.hlines(height, 0, 1, color="#DDDDDD", linewidth=0.8, zorder=1)
        if row["score"] > row["target"] or row["stated_target"] == "half":  # a bar is what came back
            ends = sorted((row["target"], row["score"]))
            ax.hlines(height, *ends, color=to_rgba(FORGET, 0.45), linewidth=4, zorder=2)
        ax.text(-0.02, height, words(label), ha="right", va="center", fontsize=9)
        ax.text(1.03, height, f"{_score_text(row)} · {GOALS[row['stated_target']]}", va="center", fontsize=9)
    shown = [(height, row) for height, (_, row) in zip(heights, lines, strict=True) if row is not None]
    looks = {
        "original": dict(marker="s", s=34, facecolors="none", edgecolors=ORIGINAL, label="original model"),
        "target": dict(marker="|", s=120, color=INK, linewidths=2.2, label="stated target (named on the right)"),
        "score": dict(marker="o", s=44, color=FORGET, edgecolors=PAPER, zorder=4, label="after unlearning"),
    }
    for key, look in looks.items():
        ax.scatter([row[key] for _, row in shown], [height for height, _ in shown], **{"zorder": 3} | look)
    ax.set(xlim=(-0.01, 1.01), ylim=(heights[-1] - 0.7, 0.7), yticks=[])
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("score of the attack (mAP, top-1 or AUC)")
    _legend_below(fig, ax, 3)
    return finished(fig, title)


def _score_text(row: Mapping) -> str:
    """Write an attack's score in percent, an AUC as a number, a dash if it is unknown."""
    score = row["score"]
    return "–" if np.isnan(score) else f"{score:.2f}" if row["metric"] == "AUC" else f"{100 * score:.0f}%"


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
    return {key: np.nan if value is None else value for key, value in row.items()}


def audit_map(audits: Mapping[str, Sequence[Mapping]], title: str = "") -> Figure:
    """Show attacks × methods: the number is the attack's score, the colour what it recovered.

    A dash is an attack that does not apply; on white there was too little to recover. Introduced in notebook 10.
    """
    table = {name: {row["attack"]: _without_none(row) for row in rows} for name, rows in audits.items()}
    lines = _audit_lines([row for rows in audits.values() for row in rows if not _unknown(row["score"])])
    lines = list({(label, row and row["attack"]): (label, row) for label, row in lines}.values())
    fig, ax = _one(1.35 * len(table) + 4.6, 0.29 * len(lines) + 1.5)
    share = np.full((len(lines), len(table)), np.nan)
    for i, (_, row) in enumerate(lines):
        for j, known in enumerate(table.values()):
            mine = known.get(row["attack"]) if row else None
            if mine is None:
                continue
            share[i, j] = mine["recovered"]
            colour = PAPER if share[i, j] < 0.5 else INK
            ax.text(j, i, _score_text(mine), ha="center", va="center", fontsize=9, color=colour)
    drawn = ax.imshow(share, cmap=HEAT, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    goals = [f"{words(label)}  [{GOALS[row['stated_target']]}]" if row else label for label, row in lines]
    ax.set_yticks(range(len(lines)), goals, fontsize=9)
    for tick, (_, row) in zip(ax.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("normal" if row else "bold")
    ax.set_xticks(range(len(table)), [words(name).replace(" ", "\n") for name in table])
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    for edge in ax.spines.values():
        edge.set_visible(False)
    bar = fig.colorbar(drawn, ax=ax, shrink=0.5, label="recovered: 0 = at the target, 1 = at the original")
    bar.ax.yaxis.set_major_formatter(PERCENT)
    return finished(fig, title)


def relearning_curves(curves: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """Show forget mAP by relearning step, {name: {step: mAP}}; 'original' and 'retrain' are drawn as references.

    Introduced in notebook 10.
    """
    fig, ax = _one(7.4, 3.7)
    looks = _method_looks(curves)
    for name, curve in curves.items():
        line = {"original": ":", "retrain": "--"}.get(name, "-")
        ax.plot([int(step) for step in curve], list(curve.values()), line, **looks[name])
    ax.set(xlabel="relearning step", ylabel="forget mAP, held-out queries", ylim=(0, 1.04))
    ax.set_xticks(sorted({int(step) for curve in curves.values() for step in curve}))
    _grid(ax, percent="y")
    _legend_right(ax)
    return finished(fig, title)
