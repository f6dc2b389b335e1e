"""Figures of photos: grids, alignment, searches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import ArrayLike

from ...faces.alignment import AlignedFace, canonical_landmarks, similarity_transform
from ...faces.splits import Splits
from ...models.embedding import embed
from ...retrieval.evaluation import Evaluation
from ...retrieval.gallery import Gallery
from .base import colour_of, finished, gridded, log_ticks, name_of, page, panels, person, row_of, show_photo, words
from .palette import ACCENT, CORRECT, CYCLE, FORGET, INK, ORIGINAL, RETRAIN, TENS, WRONG


class Search(NamedTuple):
    """One query and its top-k answers, ready to draw: photos uint8, hits bool (k,), cosines (k,). Notebook 03."""

    query: ArrayLike  # (3, S, S) uint8
    results: ArrayLike  # (k, 3, S, S) uint8
    correct: Sequence[bool]
    cosines: Sequence[float]
    names: Sequence[str] = ()
    title: str = ""
    forgotten: bool = False  # somebody who asked to be forgotten: the query's frame is orange


def photo_grid(images: ArrayLike, titles: Sequence[str] | None = None, n_columns: int = 6, title: str = "") -> Figure:
    """Show photos (N, 3, S, S) uint8 row by row, each with an optional title. Introduced in notebook 00."""
    lines = max((str(text).count("\n") + 1 for text in titles), default=1) if titles is not None else 0
    height = 1.45 + 0.25 * min(lines, 1) + 0.2 * max(0, lines - 2)
    fig, axes = panels(len(images), min(n_columns, len(images)), (1.45, 0), (height, 0.4 if title else 0))
    for i, ax in enumerate(axes):
        show_photo(ax, images[i])
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
    rows = [np.flatnonzero(labels == label)[:n_columns] for label in people]
    n_columns = max(len(row) for row in rows)
    fig = page(1.25 * n_columns + 1.3, 1.25 * len(people) + (0.4 if title else 0))
    axes = fig.subplots(len(people), n_columns, squeeze=False)
    for label, row, line in zip(people, rows, axes, strict=True):
        for k, ax in enumerate(line):
            if k < len(row):
                show_photo(ax, images[row[k]])
            else:
                ax.axis("off")
        line[0].set_ylabel(name_of(label, names), rotation=0, ha="right", va="center", labelpad=8)
    return finished(fig, title)


def alignment_steps(photo: ArrayLike, face: AlignedFace, margin: float = 0.2, title: str = "") -> Figure:
    """Show how a photo (H, W, 3) uint8 becomes a crop: photo, landmarks, turned frame, crop. Notebook 01."""
    side = len(face.crop)
    meant = canonical_landmarks(side, margin)
    a, b = similarity_transform(face.landmarks, meant)
    corners = (np.array([0, side, side + 1j * side, 1j * side, 0]) - b) / a
    fig, axes = row_of(4, 12.6, 3.4 + (0.35 if title else 0))
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
    colour = FORGET if search.forgotten or colour_of(search.title, INK) == FORGET else INK
    show_photo(axes[0], search.query, colour)
    axes[0].set_title("query", fontsize=11, loc="center", pad=6, fontweight="bold", color=colour)
    for k, ax in enumerate(axes[1:]):
        if k >= len(search.results):
            ax.axis("off")
            continue
        hit = bool(search.correct[k])
        show_photo(ax, search.results[k], CORRECT if hit else WRONG)
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
    forgotten: bool = False,
) -> Figure:
    """Show a query and its top-k gallery photos: ✓ or ✗, a coloured frame, the cosine below. Notebook 03."""
    return search_strips([Search(query, results, correct, cosines, names, title, forgotten)])


def run_searches(
    model: torch.nn.Module | Evaluation, splits: Splits, photos: Sequence[int], k: int = 6, titles: Sequence[str] = ()
) -> list[Search]:
    """Search the splits' gallery with photos, by index, and return each one's k best answers. Notebook 00."""
    faces, gallery = splits.faces, splits.gallery
    rows_of = model.rows if isinstance(model, Evaluation) else lambda some: embed(model, faces, some)
    index = Gallery(rows_of(gallery), faces.labels[gallery], photo_ids=gallery)
    k = min(k, len(gallery) - 1)  # a photo does not find itself
    cosines, rows = index.search(rows_of(photos), k, query_ids=photos)
    searches = []
    for i, photo in enumerate(photos):
        found = gallery[rows[i]]
        names = [person(label, faces.identities) for label in faces.labels[found]]
        correct = faces.labels[found] == faces.labels[photo]
        title = titles[i] if titles else person(faces.labels[photo], faces.identities)
        asked = bool(faces.labels[photo] in splits.forget)
        searches.append(Search(faces.images([photo])[0], faces.images(found), correct, cosines[i], names, title, asked))
    return searches


def search_strips(searches: Sequence[Search], title: str = "") -> Figure:
    """Show several searches, one row each, with each row's own title above it. Introduced in notebook 03."""
    k = max(len(search.results) for search in searches)
    named = any(len(search.names) for search in searches)
    fig = page(1.45 * (k + 1), (2.3 if named else 2.1) * len(searches) + (0.4 if title else 0))
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


def six_answers(searches: Mapping[str, Search], title: str = "") -> Figure:
    """Show one query and whom each model, by name, answers with first: ✓ or ✗ and the cosine. Notebook 09."""
    fig, axes = panels(len(searches) + 1, 3, (2.2, 0), (2.6, 0.4))
    show_photo(axes[0], next(iter(searches.values())).query, FORGET)
    axes[0].set_title("query: asked to be forgotten", fontsize=10.5, loc="center", color=FORGET)
    for ax, (name, search) in zip(axes[1:], searches.items(), strict=True):
        hit = bool(search.correct[0])
        show_photo(ax, search.results[0], CORRECT if hit else WRONG)
        ax.set_title(f"{words(name)} {'✓' if hit else '✗'}", fontsize=10.5, loc="center", fontweight="bold")
        ax.set_xlabel(f"{words(search.names[0], 16)}, cos {float(search.cosines[0]):.2f}", fontsize=9.5)
    return finished(fig, title)


def thumbnail_map(
    images: ArrayLike, labels: ArrayLike, places: Mapping[str, ArrayLike], title: str = "", forget: Collection[int] = ()
) -> Figure:
    """Show photos (N, 3, S, S) uint8 where each model puts them, `places` (N, 2) by name. Notebook 08."""
    labels, kept = np.asarray(labels), iter(CYCLE * len(images))
    colours = {label: FORGET if label in forget else next(kept) for label in dict.fromkeys(labels.tolist())}
    fig = page(6.4, 4.6 * len(places) + 0.4)
    for ax, (name, where) in zip(fig.subplots(len(places), 1, squeeze=False)[:, 0], places.items(), strict=True):
        for image, label, place in zip(images, labels, np.asarray(where), strict=True):
            face = OffsetImage(np.moveaxis(np.asarray(image), 0, -1), zoom=26 / np.shape(image)[1])
            look = dict(edgecolor=colours[int(label)], linewidth=2.2)
            ax.add_artist(AnnotationBbox(face, place, pad=0.05, bboxprops=look, zorder=3 if label in forget else 2))
        reach = 1.12 * max(np.abs(np.asarray(there)).max() for there in places.values())
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
        ax.spines[:].set(visible=True, color="#DDDDDD")
        ax.set_title(words(name), loc="center")
    return finished(fig, title)


def take_home(
    before: Search, after: Search, ranks: Mapping[str, tuple[float, float]], gallery_size: int, title: str = ""
) -> Figure:
    """Show a search before and after, and first right ranks by way of looking, {way: (old, new)}. Notebook 11."""
    fig = page(1.5 * (len(before.results) + 1), 8.2)
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
    log_ticks(ax, "x", TENS, gallery_size)
    ax.set_xlabel(f"rank of the first right photo, of {gallery_size:,} (1 = found at once)")
    gridded(ax, "x")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=2)
    return finished(fig, title, fontweight="bold")
