"""Every figure draws the numbers that it was given, each where its label says: no pixels, but what the axes hold."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from notebook_numbers import (
    bars_of,
    bars_say,
    cosine_of,
    dots_of,
    front_says,
    heat_says,
    lines_of,
    own_axes,
    person_dots,
    same,
    says,
    sphere_says,
    spread_is,
    squares,
)

from utils.lessons import figures as fg
from utils.unlearning import METHODS

RNG = np.random.default_rng(3)
PHOTOS = RNG.integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)
NAMES = ["Ada", "Bo", "Cleo", "Dan"]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def scores_at(start: float) -> dict:
    """No two of these scores are the same."""
    pools = {
        p: {"r1": start + i / 50, "map": start + i / 50 + 0.01} for i, p in enumerate(("forget", "retain", "unseen"))
    }
    return pools | {"chance": {"r1": start / 10, "map": start / 10 + 0.001}}


RESULTS = {name: scores_at(start) for name, start in (("original", 0.9), ("retrain", 0.6), ("esc", 0.2))}


def pictures(figure) -> list[np.ndarray]:
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def upright(photo: np.ndarray) -> np.ndarray:
    return np.moveaxis(photo, 0, -1)


def search(shift: int) -> fg.Search:
    order = [(i + shift) % 9 for i in range(4)]
    hits, cosines = [shift == 0, True, False], [0.9 - shift / 10, 0.5, 0.25 + shift / 10]
    return fg.Search(
        PHOTOS[order[0]], PHOTOS[order[1:]], hits, cosines, [NAMES[i % 4] for i in order[1:]], f"row {shift}"
    )


def search_is(axes, expected: fg.Search) -> None:
    query, *answers = axes
    same(query.images[0].get_array(), upright(expected.query), "query")
    for k, ax in enumerate(answers):
        same(ax.images[0].get_array(), upright(expected.results[k]), f"answer {k}")
        assert ax.get_title("center") == f"{k + 1}  {'✓' if expected.correct[k] else '✗'}"
        name, cosine = ax.get_xlabel().split("\n")
        assert name == expected.names[k]
        says(cosine, expected.cosines[k])


def test_photo_grid_puts_each_photo_under_its_title():
    figure = fg.photo_grid(PHOTOS[:5], list("abcde"), 3, "five")
    for k, (picture, ax) in enumerate(zip(pictures(figure), figure.axes, strict=False)):
        same(picture, upright(PHOTOS[k]), "photo")
        assert ax.get_title("center") == "abcde"[k]


def test_identity_rows_put_people_beside_their_names():
    labels = np.array([2, 0, 2, 1, 0, 2, 2])
    figure = fg.identity_rows(PHOTOS[:7], labels, NAMES, "rows", n_columns=3)
    rows = [figure.axes[i : i + 3] for i in (0, 3, 6)]
    for row, label in zip(rows, (2, 0, 1), strict=True):
        assert row[0].get_ylabel() == NAMES[label]
        meant = [i for i in range(7) if labels[i] == label][:3]
        shown = [ax.images[0].get_array() for ax in row if ax.images]
        assert len(shown) == len(meant)
        for picture, i in zip(shown, meant, strict=True):
            same(picture, upright(PHOTOS[i]), NAMES[label])


def test_searches_and_before_and_after():
    first, second = search(0), search(1)
    figure = fg.before_after_search([first], [second])
    assert [part.get_suptitle() for part in figure.subfigs] == ["row 0 · before", "row 1 · after unlearning"]
    for part, expected in zip(figure.subfigs, (first, second), strict=True):
        search_is(own_axes(figure, part), expected)
    search_is(own_axes(alone := fg.search_strip(*first), alone.subfigs[0]), first)


def test_the_query_of_somebody_who_asked_to_be_forgotten_has_an_orange_frame():
    plain, asked, told = search(0), search(1)._replace(forgotten=True), search(2)._replace(title="a forget query")
    figure = fg.search_strips([plain, asked, told])
    frames = [to_hex(own_axes(figure, part)[0].spines["top"].get_edgecolor()) for part in figure.subfigs]
    assert frames == [colour.lower() for colour in (fg.INK, fg.FORGET, fg.FORGET)]


def test_take_home_shows_before_above_after_and_the_ranks_by_way():
    ranks = {"a photo": (1.0, 30.0), "a template": (2.0, 4.0)}
    figure = fg.take_home(search(0), search(1), ranks, 400, "you")
    top, middle, bottom = figure.subfigs
    assert (top.get_suptitle(), middle.get_suptitle()) == ("before", "after unlearning")
    search_is(own_axes(figure, top), search(0))
    search_is(own_axes(figure, middle), search(1))
    (ax,) = own_axes(figure, bottom)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(ranks)
    same([dots[0] for dots in dots_of(ax)], [(1, 0), (30, 0), (2, -1), (4, -1)], "ranks")
    assert [c.get_label() for c in ax.collections][:2] == ["before", "after"]
    assert [text.get_text() for text in ax.texts] == ["1 → 30", "2 → 4"]


def test_heat_maps_are_sorted_by_person_panel_by_panel():
    labels = np.array([2, 0, 2, 1, 0])
    one, two = unit(RNG.normal(size=(5, 4))), unit(RNG.normal(size=(5, 4)))
    order = [1, 4, 3, 0, 2]
    figure = fg.similarity_heatmap({"before": one, "after": two}, labels, NAMES)
    heat_says(figure, {"before": one[order], "after": two[order]})
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["Ada", "Bo", "Cleo"]
    same([tick for tick in figure.axes[0].get_yticks()], [0.5, 2, 3.5], "the middle of each person")


def test_histograms_of_cosines_and_their_threshold():
    own, other = RNG.uniform(0.2, 1, 40), RNG.uniform(-0.4, 0.3, 90)
    ax = fg.cosine_histograms(own, other, 0.37).axes[0]
    spread_is(ax, {"different people (90": other, "same person (40": own})
    assert ax.lines[0].get_xdata()[0] == 0.37
    says(ax.lines[0].get_label(), 0.37)
    named = fg.cosine_histograms(own, other, names=("others", "mine")).axes[0]
    spread_is(named, {"others": other, "mine": own})


def test_spheres_have_each_persons_points_under_the_name():
    labels = np.array([2, 0, 2, 1, 0, 1])
    panels = {"one": unit(RNG.normal(size=(6, 3))), "two": unit(RNG.normal(size=(6, 3)))}
    sphere_says(fg.sphere_scatter(panels, labels, NAMES, forget=[0]), panels, labels, NAMES)


def test_the_view_hides_what_lies_behind():
    towards = fg.points._towards((0, 0))
    same(towards, [1, 0, 0], "elevation 0, azimuth 0")
    same(fg.points._towards((90, 0)), [0, 0, 1], "from above")
    ahead, behind = np.array([[1.0, 0, 0]]), np.array([[-1.0, 0, 0]])
    figure = fg.sphere_scatter({"a": ahead, "b": behind}, [0], NAMES, view=(0, 0))
    for ax, depth in zip([ax for ax in figure.axes if hasattr(ax, "get_zlim")], (3, 1), strict=True):
        (dots,) = [c for c in ax.collections if isinstance(c, PathCollection) and len(np.atleast_1d(c._offsets3d[0]))]
        assert dots.get_zorder() == depth


def test_films_show_each_journey_at_each_moment():
    ways = {name: np.stack([unit(RNG.normal(size=(4, 3))) for _ in range(6)]) for name in ("one loss", "other")}
    rest = unit(RNG.normal(size=(3, 3)))
    figure = fg.sphere_film(ways, rest, (0, 2, 5), {"one loss": "found", "other": "lost"}, "film", view=(0, 0))
    rows = [figure.axes[:3], figure.axes[3:]]
    assert [ax.get_title("center") for ax in rows[0]] == ["before", "step 2", "step 5"]
    for row, (name, places), note in zip(rows, ways.items(), ("found", "lost"), strict=True):
        assert row[0].texts[0].get_text().replace("\n", " ") == name and row[-1].texts[-1].get_text() == note
        for ax, moment in zip(row, (0, 2, 5), strict=True):
            drawn = np.concatenate(dots_of(ax))  # seen along x: y to the right, z up
            meant = np.concatenate([places[moment], rest])[:, 1:]
            same(drawn[np.lexsort(drawn.T)], meant[np.lexsort(meant.T)], name)


def test_best_dispersal_names_its_lines():
    drawn = lines_of(
        fg.best_dispersal([2, 3, 4], {"mean": [-1, 0.2, 0.3], "lse": [-1, -0.4, -0.3]}, [-1, -0.5, -0.33]).axes[0]
    )
    for label, values in {"best": [-1, -0.5, -0.33], "mean": [-1, 0.2, 0.3], "lse": [-1, -0.4, -0.3]}.items():
        same(next(y for name, y in drawn.items() if name.startswith(label)), values, label)


def test_circles_and_what_is_written_below():
    sets = {"a": unit(RNG.normal(size=(5, 2))), "b": unit(RNG.normal(size=(3, 2)))}
    for ax, (name, points) in zip(fg.circle_scatter(sets).axes, sets.items(), strict=True):
        same(dots_of(ax)[0], points, name)
        table = cosine_of(points, points)
        np.fill_diagonal(table, -2)
        words, first, second = ax.get_title("center").split("\n")
        assert words == name
        says(first, table[table > -1.5].mean())
        says(second, table.max(axis=1).mean())


def test_margin_curves_at_sixty_degrees():
    for label, values in lines_of(fg.margin_curves(10, 0.35, 0.5).axes[0]).items():
        at_60 = {"no margin": 5.0, "CosFace": 10 * (0.5 - 0.35), "ArcFace": 10 * np.cos(np.pi / 3 + 0.5)}
        if label.split(":")[0] in at_60:
            same(values[120], at_60[label.split(":")[0]], label)


def test_photos_per_person_and_the_least():
    ax = fg.photos_per_person([4, 4, 7, 7, 7, 1], 2).axes[0]
    same(ax.patches[0].get_data().values, [3, 2, 1], "photos")
    assert ax.lines[0].get_ydata()[0] == 2
    says(ax.lines[0].get_label(), 2, 2, 3)


def test_the_split_map_stacks_each_persons_parts(tiny_splits):
    ax = fg.split_map(tiny_splits).axes[0]
    tops = {}
    for bars, part in zip(ax.containers, ("train", "query", "gallery") * 5, strict=False):
        tops.setdefault(part, []).append(sum(bar.get_height() for bar in bars))
    pools = [pool for pool in ("forget", "dev_forget", "retain", "unseen") if getattr(tiny_splits, pool)]
    for part, sums in tops.items():
        same(sums, [len(tiny_splits.photos(pool, part)) for pool in pools], part)
    assert [bars.get_label() for bars in ax.containers[:3]] == ["train", "query", "gallery"]


def test_a_walk_down_one_ranking():
    marks, ax = fg.precision_recall_walk([1, 0, 0, 1, 0]).axes
    assert "".join(text.get_text() for text in marks.texts) == "✓✗✗✓✗"
    same(ax.lines[0].get_ydata(), [1, 1 / 2, 1 / 3, 2 / 4, 2 / 5], "precision so far")
    same(dots_of(ax)[0], [(1, 1.0), (4, 0.5)], "hits")
    assert ax.lines[1].get_ydata()[0] == 0.75  # (1/1 + 2/4) / 2


def test_roc_has_far_across_and_tar_up():
    model, chance, mark = fg.roc_curve([0.001, 1, 0.1], [0.5, 1, 0.9], mark=0.1).axes[0].lines
    same(model.get_xdata(), [0.001, 0.1, 1], "far")
    same(model.get_ydata(), [0.5, 0.9, 1], "tar")
    assert (model.get_label(), chance.get_label()) == ("this model", "guessing")
    same([mark.get_xdata()[0], mark.get_ydata()[0]], [0.1, 0.9], "the mark")


def test_a_dot_per_person_and_the_median():
    values = {"forget": [0.1, 0.2, 0.6], "retain": [0.9, 0.7]}
    figure = fg.identity_dots(values, "AP", chance=0.03)
    person_dots(figure, values)
    medians = [c.get_segments()[0][0, 1] for c in figure.axes[0].collections if not isinstance(c, PathCollection)]
    same(medians, [0.2, 0.8], "medians")
    assert figure.axes[0].lines[0].get_ydata()[0] == 0.03
    assert figure.axes[0].get_legend_handles_labels()[1] == ["median", "chance"]


def test_score_bars_pool_by_pool():
    figure = fg.score_bars(RESULTS)
    bars_say(figure, RESULTS)
    written = [text.get_text() for text in figure.axes[1].texts]
    assert written == [f"{100 * RESULTS[m][p]['map']:.0f}" for p in ("forget", "retain", "unseen") for m in RESULTS]


def test_a_panel_has_before_left_and_after_right():
    one, two = unit(RNG.normal(size=(4, 3))), unit(RNG.normal(size=(4, 3)))
    before, after = {"forget accuracy": 0.9, "unseen R@1": 0.8}, {"forget accuracy": 0.2, "unseen R@1": 0.7}
    figure = fg.forgetting_panel(one, two, [1, 1, 2], [9, 40, 3], before, after, gallery_size=90)
    drawn = squares(figure)
    same(drawn["before"], one @ one.T, "before")
    same(drawn["after"], two @ two.T, "after")
    ranks, bars = figure.axes[-2:]
    spread_is(ranks, {"before": [1, 1, 2], "after": [9, 40, 3]})
    assert [[bar.get_height() for bar in group] for group in bars.containers] == [[0.9, 0.8], [0.2, 0.7]]
    assert bars.containers[0][0].get_x() < bars.containers[1][0].get_x()


def test_a_front_has_unseen_across_forget_up_and_each_class_for_itself():
    starts = {
        "block_list": (0.04, 0.9), "gather_scatter": (0.01, 0.7), "esc": (0.05, 0.8), "scrub": (0.5, 0.95),
        "salun": (0.6, 0.9), "dispersion": (0.1, 0.75), "original": (0.99, 0.96), "retrain": (0.001, 0.97),
    }  # fmt: skip
    rows = {
        name: {
            "forget": {"map": forget, "r1": forget / 2}, "unseen": {"map": unseen, "r1": unseen / 2},
            "retain": {"map": 0.3, "r1": 0.2}, "chance": {"map": 0.02, "r1": forget / 9},
        } for name, (forget, unseen) in starts.items()
    }  # fmt: skip
    for metric in ("map", "r1"):
        ax = fg.pareto(rows, metric).axes[0]
        front_says(ax, {name: (row["unseen"][metric], row["forget"][metric]) for name, row in rows.items()})
        assert ax.get_xlabel().startswith("unseen") and ax.get_ylabel().startswith("forget")
        chance = next(line for line in ax.lines if line.get_label() == "chance")
        same(chance.get_ydata()[0], np.mean([row["chance"][metric] for row in rows.values()]), "chance")


def test_ablation_dots_by_line_and_pool():
    trials = [[{"forget": {"map": a + s / 50}, "unseen": {"map": 1 - a + s / 50}} for s in (0, 1)] for a in (0.9, 0.2)]
    figure = fg.ablation_dots([("start", "as it is", trials[0]), ("parts", "less", trials[1])])
    for ax, pool in zip(figure.axes, ("forget", "unseen"), strict=True):
        assert ax.get_xlabel().startswith(pool)
        for place, (dots, line) in enumerate(zip(dots_of(ax), trials, strict=True)):
            same(dots, [(trial[pool]["map"], -place) for trial in line], pool)
        assert ax.lines[0].get_xdata()[0] == trials[0][0][pool]["map"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["as it is", "less"]


def test_costs_and_their_shares():
    ax = fg.cost_bars({"original": 0, "esc": 10, "retrain": 1000}, "photos").axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["original", "esc", "retrain"]
    assert [text.get_text() for text in ax.texts] == ["0  0.0% of retrain", "10  1.0% of retrain", "1,000"]
    same([bar.get_x() + bar.get_width() for bar in ax.patches], [10 / 3, 10, 1000], "ends of bars")
    dearer = fg.cost_bars({"esc": 2500, "retrain": 1000}, "photos").axes[0]  # the yardstick need not be the longest bar
    assert [text.get_text() for text in dearer.texts] == ["2,500  250.0% of retrain", "1,000"]


def test_lines_by_size_and_by_request():
    sizes = {"esc": {5: {"forget": 0.2, "unseen": 0.7}, 10: {"forget": 0.3, "unseen": 0.6}}}
    sizes["retrain"] = {5: {"forget": 0.8, "unseen": 0.9}, 10: {"forget": 0.75, "unseen": 0.85}}
    for ax, pool in zip(fg.size_lines(sizes).axes, ("forget", "unseen"), strict=True):
        assert ax.get_ylabel().startswith(pool)
        for line in ax.lines:
            by_size = sizes[line.get_label()]
            same(np.column_stack(line.get_data()), [(n, scores[pool]) for n, scores in by_size.items()], pool)
    states = [[{"groups": [a, b], "unseen": u}, {"groups": [a / 2, b / 4], "unseen": u / 2}] for a, b, u in
              ((0.9, 0.8, 0.7), (0.5, 0.6, 0.3))]  # fmt: skip
    (ax,) = fg.request_lines({"esc": states}).axes
    drawn = lines_of(ax)
    same(drawn["forget, request 1"], [0.7, 0.35], "group 1")  # (0.9 + 0.5) / 2, then half
    same(drawn["forget, request 2"], [0.7, 0.175], "group 2")  # (0.8 + 0.6) / 2, then a quarter
    same(drawn["unseen people"], [0.5, 0.25], "unseen")


def test_two_worlds_side_by_side():
    drawn = {name: {pool: {"map": x} for pool, x in zip(("forget", "unseen"), shares, strict=True)}
             for name, shares in {"esc": (0.1, 0.7), "retrain": (0.8, 0.9)}.items()}  # fmt: skip
    real = {"esc": {"forget": {"map": 0.3}, "unseen": {"map": 0.6}}}
    figure = fg.two_worlds({"drawn": drawn, "real": real})
    expected = {"forget": [[0.1, 0.8], [0.3, np.nan]], "unseen": [[0.7, 0.9], [0.6, np.nan]]}
    for ax, (pool, worlds) in zip(figure.axes, expected.items(), strict=True):
        assert ax.get_xlabel().startswith(pool)
        for dots, shares in zip(dots_of(ax), worlds, strict=True):
            same(dots, list(zip(shares, (0, -1), strict=True)), pool)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [
        METHODS[name].title for name in ("esc", "retrain")
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["drawn", "real"]


def test_a_panel_per_method_by_photos_looked_at():
    curve = {2_000: (0.8, 0.7), 8_000: (), 33_000: (0.1, 0.6)}
    esc = {n: dict(zip(("forget", "unseen"), ({"map": x} for x in found), strict=False)) for n, found in curve.items()}
    figure = fg.budget_grid(
        {"esc": esc, "scrub": {2_000: {"forget": {"map": 0.3}, "unseen": {"map": 0.5}, "images_processed": 2_300}}}
    )
    first, second, empty = figure.axes
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["esc", "scrub", ""] and not empty.lines
    for place, (line, pool) in enumerate(zip(first.lines, ("forget", "unseen"), strict=True)):
        assert line.get_color() == fg.POOLS[pool] and line.get_label().startswith(pool)
        same(line.get_xdata(), list(curve), "photos")
        same(line.get_ydata(), [found[place] if found else np.nan for found in curve.values()], pool)
    assert second.lines[0].get_ydata()[0] == 0.3 and second.lines[0].get_xdata()[0] == 2_300


def audit_row(name: str, holder: str, score: float, target: float, original: float, recovered: float, **more) -> dict:
    row = {"attack": name, "title": name, "attacker": holder, "metric": "mAP", "stated_target": "chance"}
    return row | {"score": score, "target": target, "original": original, "recovered": recovered} | more


ROWS = [
    audit_row("layers", "weights", 0.5, 0.2, 0.8, 0.5, stated_target="retrained"),
    audit_row("search", "photos", 0.3, 0.1, 0.9, 0.25),
    audit_row("pairs", "photos", 0.04, 0.5, 0.95, 0.92, metric="AUC", stated_target="half"),
]


def test_an_audit_page_has_score_target_and_original_on_the_attacks_line():
    ax = fg.audit_page(ROWS).axes[0]
    order = ["search", "pairs", "layers"]  # with photos only, then with weights; a heading before each
    heights = {"search": -1, "pairs": -2, "layers": -4}
    drawn = {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)}
    by_name = {row["attack"]: row for row in ROWS}
    for label, key in (("original", "original"), ("stated target", "target"), ("after unlearning", "score")):
        dots = next(xy for name, xy in drawn.items() if name.startswith(label))
        same(dots, [(by_name[name][key], heights[name]) for name in order], key)
    said = [text.get_text() for text in ax.texts if "·" in text.get_text()]
    assert said == ["30% · chance", "0.04 · 0.5", "50% · retrained model"]
    bars = [c.get_segments()[0] for c in ax.collections if not isinstance(c, PathCollection)]
    came_back = sorted((bar[0, 1], *sorted(bar[:, 0])) for bar in bars if tuple(bar[:, 0]) != (0.0, 1.0))
    same(came_back, [(-4, 0.2, 0.5), (-2, 0.04, 0.5), (-1, 0.1, 0.3)], "what came back")


def test_the_worst_person_stands_on_the_attacks_line_and_a_price_has_no_bar():
    worst = {"worst": {"person": "Ada", "score": 0.8, "recovered": 1.0}}
    price = audit_row("collateral", "photos", 0.6, 0.5, 0.5, np.nan, stated_target="original")
    looks = audit_row("trait_leakage", "photos", 0.25, 0.2, 0.6, 0.125, metric="matched", stated_target="strangers")
    ax = fg.audit_page([ROWS[1] | worst, price, looks]).axes[0]
    drawn = {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)}
    same(drawn["worst person"], [(0.8, -1)], "worst person")
    bars = [c.get_segments()[0] for c in ax.collections if not isinstance(c, PathCollection)]
    came_back = sorted((bar[0, 1], *sorted(bar[:, 0])) for bar in bars if tuple(bar[:, 0]) != (0.0, 1.0))
    same(came_back, [(-3, 0.2, 0.25), (-1, 0.1, 0.3)], "what came back")
    said = [text.get_text() for text in ax.texts if "·" in text.get_text()]
    assert said == ["30% · chance", "60% · original: a price", "25% · strangers, retrained"]


def test_attackers_have_a_filled_square_for_each_thing_they_hold():
    held, things = {"photos": ("a",), "old model": ("c", "a")}, ("a", "b", "c")
    ax = fg.attackers_diagram(held, things).axes[0]
    filled = {tuple(c.get_offsets()[0]) for c in ax.collections if to_hex(c.get_facecolor()[0]) != "#eeeeee"}
    assert filled == {(0, 0), (0, -1), (2, -1)} and len(ax.collections) == 6
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(things)
    wanted = ["with photos only", "with the weights and the old model"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == wanted


def test_an_audit_map_has_methods_across_and_attacks_down():
    other = [row | {"score": row["score"] + 0.1, "recovered": row["recovered"] / 2} for row in ROWS[:2]]
    ax = fg.audit_map({"esc": ROWS, "retrain": other}).axes[0]
    lines = [tick.get_text().partition("  [")[0] for tick in ax.get_yticklabels()]
    shares, written = ax.images[0].get_array(), {text.get_position(): text.get_text() for text in ax.texts}
    for column, rows in enumerate((ROWS, other)):
        for row in rows:
            line = lines.index(row["title"])
            same(shares[line, column], row["recovered"], row["title"])
            says(written[column, line], row["score"] if row["metric"] == "AUC" else 100 * row["score"])
    assert np.ma.is_masked(shares[lines.index("pairs"), 1]) or np.isnan(shares[lines.index("pairs"), 1])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        METHODS[name].title.replace(" ", "\n") for name in ("esc", "retrain")
    ]


def test_a_map_of_attackers_says_shares_in_percent_and_a_dash_where_nothing_is_known():
    table = {"ESC": {"photos": 0.25, "old model": 1.0}, "SCRUB": {"photos": 0.0, "old model": np.nan}}
    ax = fg.attackers_map(table).axes[0]
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "25", (1, 0): "100", (0, 1): "0", (1, 1): "–"}
    same(np.ma.filled(ax.images[0].get_array(), np.nan), [[0.25, 1.0], [0.0, np.nan]], "shares")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["photos", "old\nmodel"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["ESC", "SCRUB"]


def test_relearning_curves_by_step():
    curves = {"original": {"0": 1.0, "5": 0.9}, "esc": {"0": 0.1, "5": 0.4, "20": 0.6}}
    for line in fg.relearning_curves(curves).axes[0].lines:
        curve = curves[{"Original model": "original", METHODS["esc"].title: "esc"}[line.get_label()]]
        same(np.column_stack(line.get_data()), [(int(step), score) for step, score in curve.items()], line.get_label())


def test_steps_stand_in_order_over_their_explanations():
    (ax,) = fg.steps_diagram([("photo", "pixels"), ("point", "numbers")]).axes
    placed = {text.get_text(): text.get_position()[0] for text in ax.texts if text.get_text()}
    assert placed == {"photo": 0, "pixels": 0, "point": 1, "numbers": 1}


@pytest.mark.parametrize("shape", [(5, 8), (4, 3)])
def test_projection_to_the_sphere_follows_the_widest_directions(shape):
    rows = unit(RNG.normal(size=shape))
    points = fg.to_sphere(rows)
    if shape[1] == 3:
        same(points, rows, "points of the ordinary sphere stay")
        return
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    flat = centred @ vectors[:, ::-1][:, :3]
    same(np.abs(points), np.abs(unit(flat)), "three widest directions, up to their signs", atol=1e-6)


def test_bars_of_reads_what_is_drawn():
    assert bars_of(fg.score_bars(RESULTS).axes[0])["forget"] == pytest.approx([0.9, 0.6, 0.2])


def test_figures_of_notebook_12_draw_what_they_are_given():
    rows = [
        {"index": kind, "megabytes": 3.0, "median_ms": time, "recall@10": time / 10} for kind in "ab" for time in (1, 2)
    ]
    rows[3]["recall@10"] = 0.7
    ax = fg.recall_lines(rows).axes[0]
    assert {name: line.tolist() for name, line in lines_of(ax).items()} == {
        "a (3 MB)": [0.1, 0.2],
        "b (3 MB)": [0.1, 0.7],
    }
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2], [1, 2]]
    asks = {asker: {pool: [k + i / 10, k] for i, pool in enumerate(("forget", "retain", "unseen"))}
            for k, asker in ((0.1, "old"), (0.5, "new"))}  # fmt: skip
    figure = fg.rollover_lines({"x": asks, "y": asks})
    for ax in figure.axes:
        drawn = lines_of(ax)
        for asker, pools in asks.items():
            for pool, shares in pools.items():
                same(drawn[f"{pool}, {asker} model asks"], shares, pool)
        assert {line.get_color() for line in ax.lines if line.get_label().startswith("forget")} == {fg.FORGET}
    sets = [0.91, 0.95, 0.4], [0.3], [0.0, 0.1, -0.2]
    words = ("same person, new vector", "same person, old vector", "strangers")
    spread_is(fg.mixed_scores({"x": sets}).axes[0], dict(zip(words, sets, strict=True)))
    bars = fg.gap_bars({"far": 0.5, "near": 1e-7}, "gap", 1e-5).axes[0]
    assert [text.get_text() for text in bars.texts] == ["5e-01", "1e-07"]
    same([patch.get_x() + patch.get_width() for patch in bars.patches], [0.5, 1e-7], "bars")


def test_a_loss_stands_at_its_step():
    (line,) = fg.loss_curve([3.0, 2.5, 1.0]).axes[0].lines
    same(line.get_xdata(), [1, 2, 3], "steps")
    same(line.get_ydata(), [3.0, 2.5, 1.0], "losses")
