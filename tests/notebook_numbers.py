"""Are the numbers that a notebook prints and draws those of its data? Plain loops, and readers of text and figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from small_world import Cell

from utils.faces.splits import Splits
from utils.lessons import figures
from utils.models.embedding import embed
from utils.unlearning import METHODS

POOLS = ("forget", "retain", "unseen")
CHECKS: dict[str, Callable[[Cell], None]] = {}
OPENING = re.compile(
    r"exercises\.check_|= open_session\(|^remind_of", re.MULTILINE
)  # an exercise, and what opening says
LEFT_OUT: dict[str, str] = {}  # cells that print or show something else than scores, and what


def cell(*ids: str) -> Callable[[Callable], Callable]:
    """Say that a function checks the cells with these ids."""

    def add(check: Callable[[Cell], None]) -> Callable[[Cell], None]:
        for name in ids:
            assert name not in CHECKS and name not in LEFT_OUT, name
            CHECKS[name] = check
        return check

    return add


def leave_out(why: str, *ids: str) -> None:
    LEFT_OUT.update(dict.fromkeys(ids, why))


class Reader:
    """Watches a notebook's cells: checks what each says, and collects what is wrong and what nobody checks."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def __call__(self, cell: Cell) -> None:
        if "exercises.check_" in cell.source and "✓" not in cell.printed and "set-up" not in cell.source:
            self.faults.append(f"{cell.id}: the answer is not exact: {cell.printed}")
        check = CHECKS.get(cell.id)
        if check is None and panels_of(cell):
            check = check_panel_cell
        if check is None and tables_of(cell):
            check = check_table_cell
        if check:
            try:
                check(cell)
            except Exception as error:  # what a cell shows may be of another kind altogether
                self.faults.append(f"{cell.id}: {type(error).__name__}: {error}")
        elif (cell.printed or cell.shown) and cell.id not in LEFT_OUT and not OPENING.search(cell.source):
            self.faults.append(f"{cell.id}: nobody checks what it says")


# ---- plain loops -----------------------------------------------------------------------------------------------------


class Seen:
    """Photos as one model sees them: a float64 row of length 1 by photo index."""

    def __init__(self, splits: Splits, photos: Sequence[int], rows: torch.Tensor) -> None:
        rows = np.asarray(rows.detach().cpu(), dtype=np.float64)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.splits, self.labels = splits, np.asarray(splits.faces.labels)
        self.at = dict(zip(map(int, photos), rows, strict=True))

    @classmethod
    def by(cls, model: torch.nn.Module, splits: Splits, photos: Sequence[int] | None = None) -> Seen:
        """Embed photos, by default all held-out ones."""
        photos = held_out(splits) if photos is None else np.asarray(photos)
        return cls(splits, photos, embed(model, splits.faces, photos, device="cpu"))

    @classmethod
    def of(cls, view) -> Seen:
        """Take over what an evaluation embedded."""
        photos = np.flatnonzero(view.place >= 0)
        return cls(view.splits, photos, view.embeddings[view.place[photos]])

    def rows(self, photos: Sequence[int]) -> np.ndarray:
        return np.array([self.at[int(photo)] for photo in photos])

    def hits(self, photo: int, enrolled: Seen | None = None, lean: float = 0.0) -> list[bool]:
        """Right or wrong, down the ranking of the gallery without the photo itself; `lean` favours right ones."""
        there, right = (enrolled or self).at, self.labels == self.labels[photo]
        others = (g for g in self.splits.gallery if g != photo)
        return [bool(right[g]) for g in sorted(others, key=lambda g: -(self.at[photo] @ there[g] + lean * right[g]))]

    def found(self, pool: str, enrolled: Seen | None = None, lean: float = 0.0) -> dict:
        """R@1, R@5 and mAP of a pool's queries, the rank of each one's first right photo, and AP by query."""
        queries = self.splits.photos(pool, "query")
        lists = {int(q): hits for q in queries if any(hits := self.hits(q, enrolled, lean))}
        precision = {q: average_precision(hits) for q, hits in lists.items()}
        shares = {f"r{k}": mean([any(hits[:k]) for hits in lists.values()]) for k in (1, 5, 10)}
        ranks = [hits.index(True) + 1 for hits in lists.values()]
        return shares | {"map": mean(precision.values()), "ranks": ranks, "precision": precision}

    def by_person(self, pool: str, enrolled: Seen | None = None) -> dict[int, float]:
        """mAP of each person of a pool."""
        precision = self.found(pool, enrolled)["precision"]
        people = sorted({int(self.labels[q]) for q in precision})
        return {p: mean([ap for q, ap in precision.items() if self.labels[q] == p]) for p in people}

    def held_out(self, *pools: str) -> list[int]:
        return [int(i) for pool in pools for part in ("query", "gallery") for i in self.splits.photos(pool, part)]

    def cosines_within(self, photos: Sequence[int]) -> dict[int, tuple[float, float]]:
        """For each person with two photos or more: mean cosine of pairs, mean of each photo's nearest."""
        result = {}
        for person in sorted({int(self.labels[i]) for i in photos}):
            mine = [i for i in photos if self.labels[i] == person]
            if len(mine) > 1:
                table = [[self.at[i] @ self.at[j] for j in mine if j != i] for i in mine]
                result[person] = (mean([mean(row) for row in table]), mean([max(row) for row in table]))
        return result

    def named(self, head, pool: str) -> float:
        """The share of a pool's held-out photos that the head calls by their own name."""
        splits = self.splits
        people = splits.trained if len(head.weight) == len(splits.trained) else splits.retain_train
        rows = np.asarray(head.weight.detach().cpu(), dtype=np.float64)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return mean([people[int(np.argmax(rows @ self.at[i]))] == self.labels[i] for i in self.held_out(pool)])

    def bars(self, head, lean: float = 0.0) -> dict[str, float]:
        """What a panel's bars show; `lean` as in `found`."""
        shares = {f"{pool} R@1": self.found(pool, lean=lean)["r1"] for pool in POOLS}
        return {"forget accuracy": self.named(head, "forget")} | shares


def held_out(splits: Splits) -> np.ndarray:
    return np.array(sorted({*splits.query.tolist(), *splits.gallery.tolist()}))


def mean(values) -> float:
    values = list(values)
    return float(sum(values) / len(values)) if values else float("nan")


def average_precision(hits: Sequence[bool]) -> float:
    ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
    return mean([(i + 1) / rank for i, rank in enumerate(ranks)])


def chance_of(splits: Splits) -> dict[str, float]:
    """R@1 and mAP of the forget queries if the gallery is in random order (expected AP of r right among n)."""
    shares, precision, labels = [], [], splits.faces.labels
    for query in splits.photos("forget", "query"):
        others = [g for g in splits.gallery if g != query]
        n, r = len(others), sum(labels[g] == labels[query] for g in others)
        if r:
            harmonic = sum(1 / k for k in range(1, n + 1))
            shares.append(r / n)
            precision.append(harmonic / n + (r - 1) / (n * (n - 1)) * (n - harmonic) if n > 1 else 1.0)
    return {"r1": mean(shares), "map": mean(precision)}


def scores_of(seen: Seen) -> dict:
    return {pool: seen.found(pool) for pool in POOLS} | {"chance": chance_of(seen.splits)}


def cosine_of(one, other) -> np.ndarray:
    """All cosines between two sets of rows, float64."""
    one, other = (np.atleast_2d(np.asarray(torch.as_tensor(x).detach().cpu(), dtype=np.float64)) for x in (one, other))
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    return one @ other.T


def cross_entropy(logits: np.ndarray, names) -> list[float]:
    rows = np.asarray(logits, dtype=np.float64)
    top = rows.max(axis=1, keepdims=True)
    logs = rows - top - np.log(np.exp(rows - top).sum(axis=1, keepdims=True))
    return [-logs[i, int(name)] for i, name in enumerate(names)]


def off_diagonal(table: np.ndarray) -> np.ndarray:
    return table[~np.eye(len(table), dtype=bool)]


# ---- what is written -------------------------------------------------------------------------------------------------

NUMBER = re.compile(r"nan|[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def says(text: str, *expected: float) -> None:
    """Assert that the numbers in a text are these, as precisely as they are written."""
    found = NUMBER.findall(text)
    assert len(found) == len(expected), f"{text!r} has {found}, expected {expected}"
    for written, value in zip(found, expected, strict=True):
        digits = written.replace(",", "").lower()
        unit = 10.0 ** -len(digits.partition(".")[2].partition("e")[0]) * 10.0 ** int(digits.partition("e")[2] or 0)
        close = np.isnan(value) if digits == "nan" else abs(float(digits) - value) <= 0.52 * unit + 2e-5 * abs(value)
        assert close, f"{text!r} says {written}, and it is {value:.6g}"


def lines_say(text: str, expected: Mapping[str, Sequence[float]]) -> None:
    """Assert that the lines begin with these words, in this order, and then say these numbers."""
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == len(expected), f"{len(lines)} lines, expected {list(expected)}"
    for line, (words, values) in zip(lines, expected.items(), strict=True):
        assert line.startswith(words), f"{line!r} does not begin with {words!r}"
        says(line[len(words) :], *values)


def rows_say(table, expected: Mapping[str, Sequence[float]]) -> None:
    """Assert that a table's rows, below the header, have these names and numbers; NaN is a dash, None anything."""
    body = table.rows[1:]
    assert [row[0] for row in body] == list(expected), f"{[row[0] for row in body]}, expected {list(expected)}"
    for row, values in zip(body, expected.values(), strict=True):
        assert len(row) >= len(values) + 1, row
        for written, value in zip(row[1:], values, strict=False):
            if value is not None and not (np.isnan(value) and written in ("–", "nan", "nan%")):
                says(written.partition("±")[0], value)


def header_is(table, *words: str) -> None:
    assert list(table.rows[0]) == list(words), f"{table.rows[0]}, expected {words}"


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def same(drawn, expected, what: str, atol: float = 2e-5) -> None:
    drawn, expected = (np.asarray(torch.as_tensor(np.array(x, dtype=np.float64))) for x in (drawn, expected))
    assert drawn.shape == expected.shape, f"{what}: {drawn.shape} drawn, expected {expected.shape}"
    assert np.allclose(drawn, expected, atol=atol, rtol=1e-4, equal_nan=True), f"{what}: {drawn} drawn, not {expected}"


def title_of(figure: Figure) -> str:
    return figure.get_suptitle()


def titled(figure: Figure, *words: str) -> None:
    for word in words:
        assert word in title_of(figure), f"the title {title_of(figure)!r} does not say {word!r}"


def bars_of(ax: Axes) -> dict[str, list[float]]:
    return {bars.get_label(): [bar.get_height() for bar in bars] for bars in ax.containers}


def lines_of(ax: Axes) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in ax.lines}


def squares(figure: Figure) -> dict[str, np.ndarray]:
    """The pictures of a figure by their titles."""
    shown = {}
    for ax in figure.axes:
        for image in ax.images:
            shown[ax.get_title("left") or ax.get_title("center")] = np.asarray(image.get_array())
    return shown


def histograms(ax: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Edges and heights of every filled histogram, by its label."""
    found = {}
    for patch in ax.patches:
        x, y = patch.get_path().vertices.T
        edges = np.unique(x)
        found[patch.get_label()] = edges, y[1 : 2 * len(edges) - 1 : 2]
    return found


def spread_is(ax: Axes, expected: Mapping[str, Sequence[float]], share: bool = True) -> None:
    """Assert that the histograms whose labels begin with these words are those of these values."""
    drawn = histograms(ax)
    assert len(drawn) == len(expected), f"{list(drawn)} drawn, expected {list(expected)}"
    for words, values in expected.items():
        labels = [label for label in drawn if label.startswith(words)]
        assert len(labels) == 1, f"{words!r} among {list(drawn)}"
        edges, heights = drawn[labels[0]]
        values = np.asarray(values, dtype=np.float64).ravel()
        inside = [((values >= low) & (values < high)).sum() for low, high in zip(edges, edges[1:], strict=False)]
        inside[-1] += (values == edges[-1]).sum()
        total = max(values.size, 1) if share else 1
        # a value on an edge may fall to either side of it
        assert np.abs(np.cumsum(heights) - np.cumsum(inside) / total).max() <= 2.01 / total, labels[0]


def dots_of(ax: Axes) -> list[np.ndarray]:
    """Where the dots of every scatter are (n, 2), in the order of drawing; empty ones left out."""
    sets = [np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)]
    return [dots for dots in sets if len(dots)]


def front_says(ax: Axes, points: Mapping[str, Sequence[float]], atol: float = 2e-5) -> None:
    """Assert that each method's name points at its (unseen, forget), where a dot with the class's marker lies.

    A dot has the front's colour, and lies on a line, if its class has no better one."""
    named = {text.get_text(): text.xy for text in ax.texts}
    assert len(named) == len(points)
    dots = [(spot, face, len(c.get_paths()[0].vertices)) for c in ax.collections for spot, face in zip(
        c.get_offsets(), np.resize(c.get_facecolors(), (len(c.get_offsets()), 4)), strict=True
    )]  # fmt: skip
    joined = {tuple(np.round(spot, 9)) for line in ax.lines for spot in line.get_xydata()}
    corners = {"reference": 5, "weights": 26, "wrapper": 4}  # of a square, a circle and a triangle, closed
    for name, (unseen, forget) in points.items():
        kind, at = METHODS[name].kind, named[METHODS[name].title]
        same(at, (unseen, forget), name, atol)
        rivals = [points[other] for other in points if METHODS[other].kind == kind]
        beaten = any(x >= unseen and y <= forget and (x, y) != (unseen, forget) for x, y in rivals)
        best = kind != "reference" and not beaten
        mine = [face for spot, face, n in dots if np.allclose(spot, at, atol=1e-9, rtol=0) and n == corners[kind]]
        assert any(same_color(face, figures.FRONT) == best for face in mine), f"{name}: on the front? {best}"
        assert best <= (tuple(np.round(at, 9)) in joined), f"{name}: not on the line"


def person_dots(figure: Figure, expected: Mapping[str, Sequence[float]]) -> None:
    """Assert that a figure of dots per person has these columns, names below, and their medians."""
    ax = figure.axes[0]
    names = [tick.get_text().rpartition("\n(")[0] for tick in ax.get_xticklabels()]
    assert [name.replace("_", " ") for name in names] == [name.replace("_", " ") for name in expected], names
    for dots, (name, values) in zip(dots_of(ax), expected.items(), strict=True):
        same(sorted(dots[:, 1]), sorted(values), name)


def bars_say(figure: Figure, expected: Mapping[str, Mapping], metrics: Sequence[str] = ("r1", "map")) -> None:
    """Assert that score bars show these scores, {model: {pool: {metric}}}, and chance."""
    words = {"r1": "R@1", "map": "mAP"}
    for ax, metric in zip(figure.axes, metrics, strict=True):
        assert ax.get_ylabel() == words[metric]
        drawn = bars_of(ax)
        assert list(drawn) == list(POOLS)
        for pool, heights in drawn.items():
            same(heights, [scores[pool][metric] for scores in expected.values()], f"{pool} {metric}")
        same([lines.get_segments()[0][0, 1] for lines in ax.collections], [
            scores["chance"][metric] for scores in expected.values()
        ], f"chance {metric}")  # fmt: skip
    ticks = [tick.get_text().replace("\n", " ") for tick in figure.axes[-1].get_xticklabels()]
    assert ticks == [name.replace("_", " ") for name in expected], ticks


def heat_says(figure: Figure, expected: Mapping[str, np.ndarray]) -> None:
    """Assert that the squares of a heat map hold the cosines within these rows, sorted by person."""
    drawn = squares(figure)
    assert list(drawn) == list(expected), f"{list(drawn)} drawn, expected {list(expected)}"
    for name, rows in expected.items():
        same(drawn[name], cosine_of(rows, rows), name, atol=1e-4)


def sphere_says(figure: Figure, expected: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> None:
    """Assert that every panel has each person's points (n, 3) under the person's name in the legend."""
    axes = [ax for ax in figure.axes if hasattr(ax, "get_zlim")]
    assert [ax.get_title("center") for ax in axes] == [name.replace("_", " ") for name in expected]
    people = list(dict.fromkeys(np.asarray(labels).tolist()))
    for ax, points in zip(axes, expected.values(), strict=True):
        gathered: list[np.ndarray] = []
        left = iter(people)
        for dots in (c for c in ax.collections if hasattr(c, "_offsets3d") and isinstance(c, PathCollection)):
            if not dots.get_label().startswith("_"):
                person = next(left)
                assert str(names[person])[:8] in dots.get_label().replace(" ", "_") + dots.get_label()
                drawn = np.concatenate(gathered)
                mine = np.asarray(points)[np.asarray(labels) == person]
                same(drawn[np.lexsort(drawn.T)], mine[np.lexsort(mine.T)], f"points of {names[person]}", atol=1e-4)
                gathered = []
            else:
                gathered.append(np.stack([np.asarray(part, dtype=float) for part in dots._offsets3d], axis=1))
        assert next(left, None) is None


def photo_of(picture: np.ndarray, faces) -> int:
    """Which photo of a data set a picture (S, S, 3) is."""
    every = faces.images(np.arange(len(faces.labels))).numpy()
    found = np.flatnonzero((every == np.moveaxis(np.asarray(picture), -1, 0)).all(axis=(1, 2, 3)))
    assert len(found), "a picture that is no photo of the data set"
    return int(found[0])


def rows_of_people(figure: Figure, faces, photos: Sequence[int]) -> None:
    """Assert that a figure with a row per person shows these photos, each in the row with its person's name."""
    shown = []
    for row in ax_rows(figure):
        mine = [photo_of(ax.images[0].get_array(), faces) for ax in row if ax.images]
        names = {faces.identities[faces.labels[photo]] for photo in mine}
        assert len(names) == 1 and row[0].get_ylabel() == names.pop().replace("_", " ")[:16], row[0].get_ylabel()
        shown += mine
    assert set(shown) <= set(map(int, photos)) and len(shown) == len(set(shown)), "other photos are drawn"


def ax_rows(figure: Figure) -> list[list[Axes]]:
    n_rows, n_columns = figure.axes[0].get_gridspec().get_geometry()
    return [figure.axes[i * n_columns : (i + 1) * n_columns] for i in range(n_rows)]


def strips_say(figure: Figure, splits: Splits, searches: Sequence[tuple[torch.nn.Module | Seen, int, str]]) -> None:
    """Assert that each row is the search of a photo with a model, under a title that begins with these words."""
    parts = list(figure.subfigs)
    assert len(parts) == len(searches), f"{len(parts)} searches are drawn, expected {len(searches)}"
    for part, (model, photo, words) in zip(parts, searches, strict=True):
        assert part.get_suptitle().startswith(words), f"{part.get_suptitle()!r}, expected {words!r}"
        strip_says(own_axes(figure, part), splits, model, int(photo))


def own_axes(figure: Figure, part) -> list[Axes]:
    return [ax for ax in figure.axes if ax.figure is part or ax.get_figure(False) is part]


def strip_says(axes: Sequence[Axes], splits: Splits, model: torch.nn.Module | Seen, photo: int) -> None:
    faces, query, *answers = splits.faces, *axes
    same(query.images[0].get_array(), np.moveaxis(faces.images([photo])[0].numpy(), 0, -1), "the query")
    asked = [photo, *(g for g in splits.gallery if g != photo)]
    seen = model if isinstance(model, Seen) else Seen.by(model, splits, asked)
    ranked = sorted((g for g in splits.gallery if g != photo), key=lambda g: -(seen.at[photo] @ seen.at[int(g)]))
    for place, (ax, g) in enumerate(zip(answers, ranked, strict=False)):
        if not ax.images:
            continue
        same(ax.images[0].get_array(), np.moveaxis(faces.images([g])[0].numpy(), 0, -1), f"answer {place + 1}")
        mark = "✓" if faces.labels[g] == faces.labels[photo] else "✗"
        assert ax.get_title("center") == f"{place + 1}  {mark}"
        says(ax.get_xlabel().rpartition("cos")[2], float(seen.at[photo] @ seen.at[int(g)]))


# ---- the session's panels and tables ---------------------------------------------------------------------------------


def panels_of(cell: Cell) -> list[str]:
    """What a cell shows panels of, as the code names it."""
    return re.findall(r"^session\.panel\((.+?)(?:, \".*\")?\)$", cell.source, re.MULTILINE)


def check_panel_cell(cell: Cell) -> None:
    wanted = panels_of(cell)
    figures = [shown for shown in cell.shown if isinstance(shown, Figure)]
    assert len(figures) == len(wanted), f"{len(figures)} panels, expected {wanted}"
    for code, figure in zip(wanted, figures, strict=True):
        panel_says(figure, cell.names["session"], eval(code, cell.names))


def panel_says(figure: Figure, session, view) -> None:
    """Assert that a panel shows the forget person with the most held-out photos, ranks and bars of one view."""
    titled(figure, "held-out photos")
    before, after = Seen.of(session.before), Seen.of(view)
    photos = held_out(session.splits)
    mine = {p: [int(i) for i in photos if before.labels[i] == p] for p in session.splits.forget}
    most = max(mine.values(), key=len)
    drawn = squares(figure)
    for name, seen in (("before", before), ("after", after)):
        same(drawn[name], cosine_of(seen.rows(most), seen.rows(most)), f"cosines {name}", atol=1e-4)
    ranks, bars = figure.axes[-2:]
    spread_is(ranks, {name: seen.found("forget")["ranks"] for name, seen in (("before", before), ("after", after))})
    heads = (session.recogniser.head, view.head)
    shown = before.bars(heads[0]), after.bars(heads[1])
    for container, seen, head in zip(bars.containers, (before, after), heads, strict=True):
        heights = np.array([bar.get_height() for bar in container])  # photos all sent to one point: any order is right
        low, high = (np.nan_to_num(list(seen.bars(head, lean).values())) for lean in (-1e-6, 1e-6))
        assert all(low - heights <= 1e-4) and all(heights - high <= 1e-4), f"bars: {heights}, not {low} to {high}"
    ticks = [tick.get_text().replace("\n", " ") for tick in bars.get_xticklabels()]
    assert ticks == list(shown[0]), ticks


def tables_of(cell: Cell) -> list[str]:
    return re.findall(r"^session\.table\((.+)\)$", cell.source, re.MULTILINE)


def check_table_cell(cell: Cell) -> None:
    """The session's table: the references and the asked methods, with the scores of the models in `trials`."""
    from utils.unlearning import METHODS

    names = cell.names
    asked = eval(f"(lambda *names: names)({tables_of(cell)[0]})", names)
    (table,) = (shown for shown in cell.shown if hasattr(shown, "rows"))
    header = ("method", "forget accuracy ↓", *(f"{pool} {score} {arrow}" for pool, arrow in
              (("forget", "↓"), ("retain", "↑"), ("unseen", "↑")) for score in ("R@1", "mAP")))  # fmt: skip
    assert table.rows[0][: len(header)] == list(header), table.rows[0]
    wanted = [name for name in METHODS if name in {"original", "retrain", *asked}]
    session = names["session"]
    known = {name: trial for name, trial in names.get("trials", {}).items() if name in METHODS}
    expected: dict[str, list] = {}
    for name in wanted:
        if name == "original":
            seen, head = Seen.of(session.before), session.recogniser.head
        elif name in known:
            seen, head = Seen.by(known[name].outcome.model, session.splits), known[name].outcome.trained_head
        else:
            expected[METHODS[name].title] = [None] * 7
            continue
        found = {pool: seen.found(pool) for pool in POOLS}
        expected[METHODS[name].title] = [
            100 * value for value in (seen.named(head, "forget"), *(found[p][k] for p in POOLS for k in ("r1", "map")))
        ]
    rows_say(table, expected)
