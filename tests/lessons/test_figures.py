"""Every figure draws from plain arrays, leaves its inputs and pyplot alone, and says what its data say."""

from __future__ import annotations

import base64
import io
import itertools
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from utils.faces.alignment import AlignedFace, canonical_landmarks
from utils.lessons import figures as fg
from utils.retrieval import evaluate

RNG = np.random.default_rng(0)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


PHOTOS = np.repeat(RNG.integers(0, 256, (12, 3, 16, 1), dtype=np.uint8), 16, axis=3)
LABELS = np.repeat([2, 0, 5], 4)
NAMES = ["Ada", "Bo", "Cleo_de_la_very_long_name", "D", "E", "Fay"]
EMB = unit(RNG.normal(size=(12, 8)))
SEARCH = fg.Search(PHOTOS[0], PHOTOS[1:4], [True, False, True], [0.9, 0.5, 0.41], ["Ada", "Bo", "Ada"], "a person")
SCORES = {
    name: {pool: {"r1": r1, "r5": r1, "map": r1 / 2} for pool in ("forget", "retain", "unseen")}
    | {"chance": {"r1": 0.01, "map": 0.02}}
    for name, r1 in (("original", 0.98), ("retrain", 0.97), ("random_labels", 0.4))
}
BARS = {"forget accuracy": 1.0, "forget R@1": 0.98, "retain R@1": 0.97, "unseen R@1": float("nan")}

AUDIT = [
    {"attack": name, "title": name, "attacker": holder, "metric": metric, "stated_target": target,
     "score": score, "target": goal, "original": 0.9, "recovered": share}
    for name, holder, metric, target, score, goal, share in (
        ("search", "photos", "mAP", "chance", 0.3, 0.1, 0.25),
        ("pairs", "photos", "AUC", "half", 0.04, 0.5, 0.92),
        ("layers", "weights", "mAP", "retrained", 0.5, float("nan"), float("nan")),
        ("taken_off", "weights", "mAP", "chance", None, None, None),
    )
]  # fmt: skip

ALIGNED = AlignedFace(
    crop=np.moveaxis(PHOTOS[1], 0, -1),
    box=np.array([2.0, 3.0, 12.0, 14.0]),
    landmarks=canonical_landmarks(16, 0.2) @ np.array([[0.0, 0.5], [-0.5, 0.0]]) + 12,  # turned by 90°, half the size
    confidence=0.99,
    n_faces=1,
)

WAY = np.stack([unit(RNG.normal(size=(5, 3))) for _ in range(6)])

CASES = {
    "photo_grid": lambda: fg.photo_grid(PHOTOS, [str(i) for i in range(12)], 5, "photos"),
    "photo_grid_one": lambda: fg.photo_grid(torch.from_numpy(PHOTOS[:1])),
    "identity_rows": lambda: fg.identity_rows(PHOTOS, LABELS, NAMES, "people"),
    "alignment_steps": lambda: fg.alignment_steps(np.moveaxis(PHOTOS[0], 0, -1), ALIGNED, title="one photo"),
    "photos_per_person": lambda: fg.photos_per_person(np.repeat([0, 1, 2], [1, 30, 4]), 10, "photos"),
    "search_strip": lambda: fg.search_strip(*SEARCH),
    "before_after_search": lambda: fg.before_after_search([SEARCH, SEARCH], [SEARCH, SEARCH], "both"),
    "similarity_heatmap": lambda: fg.similarity_heatmap(EMB, LABELS, NAMES),
    "similarity_heatmap_two": lambda: fg.similarity_heatmap({"before": EMB, "after": torch.tensor(EMB)}, LABELS),
    "cosine_histograms": lambda: fg.cosine_histograms([0.9, 0.8], RNG.uniform(-0.3, 0.3, 50), 0.4, log=True),
    "sphere_scatter": lambda: fg.sphere_scatter(fg.to_sphere(EMB), LABELS, NAMES),
    "sphere_scatter_two": lambda: fg.sphere_scatter({"a": fg.to_sphere(EMB), "b": fg.to_sphere(EMB)}, LABELS),
    "circle_scatter": lambda: fg.circle_scatter({"a": unit(RNG.normal(size=(5, 2)))}),
    "margin_curves": lambda: fg.margin_curves(32, 0.35, 0.5),
    "precision_recall_walk": lambda: fg.precision_recall_walk([1, 0, 1, 1]),
    "precision_recall_walk_none": lambda: fg.precision_recall_walk([0, 0, 0]),
    "roc_curve": lambda: fg.roc_curve([0, 0.001, 0.1, 1], [0.2, 0.5, 0.9, 1]),
    "identity_dots": lambda: fg.identity_dots({"forget": [0.1, 0.2], "retain": [0.9]}, "AP", chance=0.01),
    "score_bars": lambda: fg.score_bars(SCORES),
    "forgetting_panel": lambda: fg.forgetting_panel(EMB[:4], EMB[4:8], [1, 1], [3, 40], BARS, BARS, gallery_size=90),
    "pareto": lambda: fg.pareto(SCORES),
    "attackers_diagram": lambda: fg.attackers_diagram({"photos": ("a",), "old head": ("a", "b")}, ("a", "b")),
    "audit_page": lambda: fg.audit_page(AUDIT, "one method"),
    "audit_map": lambda: fg.audit_map({"a_method": AUDIT, "other": AUDIT[:2]}),
    "attackers_map": lambda: fg.attackers_map({"a_method": {"photos": 0.25, "old model": float("nan")}}),
    "relearning_curves": lambda: fg.relearning_curves({"original": {"0": 1.0, "5": 1.0}, "b": {"0": 0.1, "5": 0.4}}),
    "ablation_dots": lambda: fg.ablation_dots(
        [(g, v, [{p: {"map": m} for p in fg.POOLS}] * 2) for g, v, m in (("a", "x", 0.9), ("b", "y", 0.1))], "parts"
    ),
    "cost_bars": lambda: fg.cost_bars({"original": 0, "retrain": 1000, "esc": 10}, "photos"),
    "budget_grid": lambda: fg.budget_grid({n: {2_000: SCORES["original"]} for n in "abcd"}, "budgets"),
    "size_lines": lambda: fg.size_lines(
        {"esc": {1: {"forget": 0.1, "unseen": 0.8}, 5: {"forget": 0.2, "unseen": 0.7}}}
    ),
    "two_worlds": lambda: fg.two_worlds({"drawn": SCORES, "real": {"original": SCORES["original"]}}, title="two"),
    "request_lines": lambda: fg.request_lines({"esc": [[{"groups": [0.9, 0.8], "unseen": 0.7}] * 3] * 2}),
    "pareto_of_strangers": lambda: fg.pareto({f"mine_{i}": SCORES["original"] for i in range(70)}, "r1"),
    "sphere_film": lambda: fg.sphere_film({"a loss": WAY, "b": WAY}, WAY[0], (0, 2, 5), {"b": "found"}, "film"),
    "best_dispersal": lambda: fg.best_dispersal([2, 3], {"mean": [-1, 0.2]}, [-1, -0.5], "best"),
    "six_answers": lambda: fg.six_answers({"before": SEARCH, "block list": SEARCH}, "six"),
    "thumbnail_map": lambda: fg.thumbnail_map(PHOTOS, LABELS, {"a": EMB[:, :2], "b": EMB[:, :2]}, "map", [0]),
    "take_home": lambda: fg.take_home(SEARCH, SEARCH, {"a photo": (1, 30.0), "a template": (2, 4)}, 400, "you"),
    "loss_curve": lambda: fg.loss_curve([3.0, 2.0, 1.5], "Losses"),
    "wrapper_diagram": lambda: fg.wrapper_diagram(),
    "steps_diagram": lambda: fg.steps_diagram([("photo", "pixels"), ("embedding", "numbers")], "how"),
}


def texts(figure: Figure) -> str:
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return "\n".join(artist.get_text() for artist in found if isinstance(artist.get_text(), str))


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        fg.use_style()
        yield


@pytest.mark.parametrize("name", CASES)
def test_figure_renders_small_and_stays_outside_pyplot(name):
    before = PHOTOS.copy(), EMB.copy(), LABELS.copy()
    figure = CASES[name]()
    assert isinstance(figure, Figure) and not plt.get_fignums()
    png, told = fg.compact_png(figure)
    assert "$" not in texts(figure), "an axis writes formulas"
    assert all(map(np.array_equal, before, (PHOTOS, EMB, LABELS))), "inputs are not changed"
    assert len(told["alt"]) <= fg.MOST_SAID
    assert png.startswith(b"\x89PNG") and 1_000 < len(png) < 150_000


def test_notebooks_get_the_small_png():
    shell = InteractiveShell.instance()
    try:
        fg.use_style()
        figure = fg.margin_curves()
        data, told = shell.display_formatter.format(figure)
        assert told["image/png"]["alt"].startswith("Handicap for the true person") and "ArcFace" in str(told)
        assert Image.open(io.BytesIO(data["image/png"])).mode == "P"
        full = io.BytesIO()
        figure.savefig(full, format="png", bbox_inches="tight")
        assert len(data["image/png"]) < 0.6 * len(full.getvalue())
    finally:
        InteractiveShell.clear_instance()


def test_search_tells_hits_by_symbol_not_only_by_colour():
    shown = texts(fg.search_strip(*SEARCH))
    assert shown.count("✓") == 2 and shown.count("✗") == 1
    assert "cos 0.41" in shown and "a person" in shown and "query" in shown


def test_before_and_after_rows_are_labelled():
    shown = texts(fg.before_after_search([SEARCH], [SEARCH]))
    assert "a person · before" in shown and "a person · after unlearning" in shown


def test_average_precision_walk_shows_the_hand_computed_value():
    # hits at ranks 1, 3, 4: (1/1 + 2/3 + 3/4) / 3 = 0.81
    shown = texts(fg.precision_recall_walk([1, 0, 1, 1]))
    assert "AP 0.81" in shown and "2/3" in shown and "3/4" in shown
    assert "hits below rank 2: 2" in texts(fg.precision_recall_walk([1, 0, 1, 1], n_shown=2))


def test_heatmap_sorts_people_and_shares_one_scale():
    figure = fg.similarity_heatmap({"before": EMB, "after": EMB}, LABELS, NAMES)
    first, second = (ax for ax in figure.axes if ax.get_images())
    assert [label.get_text() for label in first.get_yticklabels()] == ["Ada", "Cleo de la very…", "Fay"]
    assert first.get_images()[0].get_clim() == second.get_images()[0].get_clim()
    np.testing.assert_allclose(np.diag(first.get_images()[0].get_array()), 1, atol=1e-6)
    shown, own = first.get_images()[0].get_array(), EMB[4:8] @ EMB[4:8].T  # label 0 comes first
    np.testing.assert_allclose(shown[:4, :4], own, atol=1e-6)


def test_roc_mark_interpolates_the_curve():
    assert "TAR 50% at FAR 0.1%" in texts(fg.roc_curve([0, 0.001, 0.1, 1], [0.2, 0.5, 0.9, 1]))


def test_histograms_show_shares_of_pairs():
    ax = fg.cosine_histograms([0.9, 0.8, 0.7], [0.0, 0.1]).axes[0]
    heights = [patch.get_path().vertices[:, 1].max() for patch in ax.patches]
    assert heights == pytest.approx([1 / 2, 1 / 3])  # different people, then same person


def test_rank_one_has_its_own_bin():
    edges = fg.rank_edges(1640)
    assert edges[0] == 0.5 and edges[1] == 1.5 and edges[-1] > 1640 and (np.diff(edges) > 0).all()


def test_circle_shows_mean_and_nearest_cosine():
    square = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    shown = texts(fg.circle_scatter({"square": square}))
    assert "mean cosine -0.33" in shown and "nearest cosine +0.00" in shown


def test_sphere_projection_has_unit_rows_and_a_common_frame():
    points = fg.to_sphere(EMB)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(fg.to_sphere(EMB[:3], EMB), points[:3], atol=1e-9)
    on_ball = unit(RNG.normal(size=(5, 3)))
    np.testing.assert_allclose(fg.to_sphere(on_ball), on_ball)


def test_margin_curves_meet_the_formula():
    ax = fg.margin_curves(10, 0.35, 0.5).axes[0]
    plain, cosface, arcface = (line.get_ydata()[0] for line in ax.lines[:3])  # at angle 0
    assert (plain, cosface, arcface) == pytest.approx((10, 6.5, 10 * np.cos(0.5)))


@pytest.mark.parametrize("n", [2, 12, 40])
def test_a_front_names_every_point_beside_the_axes_and_none_over_another(n):
    same_place = {f"{name} ({i} epochs)": SCORES["original"] for i in range(n // 2) for name in ("esc", "scrub")}
    figure = fg.pareto(same_place, title="all in one place")
    ax, pen = figure.axes[0], FigureCanvasAgg(figure).get_renderer()
    figure.draw(pen)
    boxes = [Text.get_window_extent(text, pen) for text in sorted(ax.texts, key=lambda text: -text.get_position()[1])]
    assert len({text.get_text() for text in ax.texts}) == n == len(boxes)
    assert all(above.y0 >= below.y1 for above, below in zip(boxes, boxes[1:], strict=False))
    assert min(box.x0 for box in boxes) > ax.bbox.x1
    legend, title = figure.legends[0].get_window_extent(pen), figure._suptitle.get_window_extent(pen)
    assert boxes[-1].y0 > legend.y1 and boxes[0].y1 < title.y0
    assert ax.spines.left.get_bounds() == (0, 1) and ax.spines.bottom.get_bounds()[1] == 1  # not beyond 100 %


def test_the_front_is_what_no_other_beats():
    points = {"a": (99, 99), "b": (80, 5), "c": (85, 5), "d": (84, 9), "e": (90, 50), "c again": (85, 5), "f": (90, 60)}
    assert fg.front_of(points) == ["c", "c again", "e", "a"]


def test_names_are_moved_as_little_as_possible():
    assert fg.spread([50, 50, 20], 4, 0, 100) == pytest.approx([48, 52, 20])  # two share the way
    assert fg.spread([1, 0, 2], 3, 0, 100) == pytest.approx([3, 0, 6])  # the middle one stays, but for the floor
    heights = [5, 3, 5, 9]
    placed = fg.spread(heights, 2, 2, 9)
    grid = itertools.combinations(np.arange(2, 9.01, 0.25), 4)
    apart = [spots for spots in grid if min(np.diff(spots)) >= 2]
    best = min(sum((a - b) ** 2 for a, b in zip(spots, sorted(heights), strict=True)) for spots in apart)
    assert min(np.diff(sorted(placed))) >= 2 - 1e-9 and min(placed) >= 2 and max(placed) <= 9
    assert best - 0.2 <= sum((a - b) ** 2 for a, b in zip(placed, heights, strict=True)) <= best + 1e-9


def test_a_panel_shows_both_models_and_is_small_enough_for_a_row_of_them():
    after = BARS | {"forget accuracy": 0.25}
    figure = fg.forgetting_panel(
        EMB[:4], torch.tensor(EMB[4:8]), [1, 1, 1], [3, np.nan, 7], BARS, after,
        gallery_size=90, person="Ada", title="A method: held-out photos",
    )  # fmt: skip
    written = texts(figure)
    for text in ("A method: held-out photos", "cosines: Ada", "before: median 1", "after: median 5", "–"):
        assert text in written.splitlines()
    squares = [image.get_array() for image in figure.findobj(AxesImage)]
    assert any(np.allclose(square, EMB[4:8] @ EMB[4:8].T) for square in squares)
    bars = figure.findobj(lambda artist: isinstance(artist, Rectangle) and abs(artist.get_width() - 0.38) < 1e-9)
    assert sorted(round(bar.get_height(), 2) for bar in bars) == [0, 0, 0.25, 0.97, 0.97, 0.98, 0.98, 1]
    assert len(fg.compact_png(figure)) < 45_000


def test_alignment_says_how_the_photo_was_turned_and_draws_the_crops_corners():
    figure = fg.alignment_steps(np.moveaxis(PHOTOS[0], 0, -1), ALIGNED)
    assert "turned -90°, × 2.00" in texts(figure)
    corners = figure.axes[2].lines[0].get_xydata()
    assert corners == pytest.approx(np.array([[12, 12], [12, 20], [4, 20], [4, 12], [12, 12]]), abs=1e-9)


def test_photos_per_person_counts_who_has_enough():
    figure = fg.photos_per_person([7, 7, 7, 3, 3, 9], 2)
    assert "2 of 3 people" in texts(figure)


def test_split_map_draws_every_photo_once(tiny_splits):
    figure = fg.split_map(tiny_splits, "who")
    bars = figure.axes[0].patches
    assert sum(bar.get_height() for bar in bars) == len(tiny_splits.faces)
    assert "dev-forget\n1 people" in texts(figure) and "distractors" not in texts(figure)


def test_palette_colours_are_distinct():
    colours = [fg.FORGET, fg.RETAIN, fg.UNSEEN, fg.ORIGINAL, fg.RETRAIN, fg.ACCENT, fg.CHANCE]
    assert len(set(colours)) == len(colours)


def test_searches_mark_the_right_person_and_leave_the_query_out(tiny_recogniser, tiny_splits):
    queries = tiny_splits.photos("retain", "gallery")[:2].tolist()
    searches = fg.run_searches(tiny_recogniser.model, tiny_splits, queries, k=4)
    view = evaluate(tiny_recogniser.model, tiny_splits)  # holds the embeddings already
    for made, given in zip(searches, fg.run_searches(view, tiny_splits, queries, k=4), strict=True):
        assert made.names == given.names and np.allclose(made.cosines, given.cosines, atol=1e-6)
    for photo, search in zip(queries, searches, strict=True):
        person = tiny_splits.faces.identities[tiny_splits.faces.labels[photo]]
        assert search.title == person and [name == person for name in search.names] == list(search.correct)
        assert sorted(search.cosines, reverse=True) == list(search.cosines)
        assert not any((answer == search.query).all() for answer in search.results)


def test_an_audit_names_targets_and_leaves_out_what_does_not_apply():
    page, table = texts(fg.audit_page(AUDIT)), texts(fg.audit_map({"a_method": AUDIT}))
    for shown in (page, table):
        assert "with photos only" in shown and "with the model's weights" in shown and "taken_off" not in shown
        assert "30%" in shown and "0.04" in shown
    assert "30% · chance" in page and "50% · retrained model" in page
    assert "search  [chance]" in table and "pairs  [0.5]" in table


def test_an_alt_text_tells_titles_axes_legend_and_written_values_once():
    said = fg.alt_text(fg.score_bars(SCORES, title="Held-out photos of everybody"))
    assert said.startswith("Held-out photos of everybody. up: R@1. shown: chance, forget, retain, unseen")
    assert said.count("Held-out photos of everybody") == 1 and "98" in said
    assert fg.alt_text(fg.photo_grid(PHOTOS, title="Twelve photos")).startswith("Twelve photos. 12 pictures")
    assert "a person · before" in fg.alt_text(fg.before_after_search([SEARCH], [SEARCH]))


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2.2."""
    shares = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(colour: str, paper: str = fg.PAPER) -> float:
    light, dark = sorted((luminance(colour), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_words_and_marks():
    assert contrast("#000000") == pytest.approx(21)
    assert min(map(contrast, (fg.INK, fg.CHANCE, fg.ORIGINAL))) >= 4.5  # words
    assert min(map(contrast, (fg.FORGET, fg.RETAIN, fg.UNSEEN, fg.CORRECT, fg.WRONG, fg.RETRAIN))) >= 3  # marks


def test_a_moving_picture_is_one_small_looping_image_with_a_description():
    page = fg.moving_spheres({"mean": WAY, "hard <1>": WAY, "third": WAY}, WAY[0], "losses", frames=4).data
    assert 'alt="losses: animation' in page and "hard &lt;1&gt;" in page and "<script" not in page
    film = Image.open(io.BytesIO(base64.b64decode(page.split("base64,")[1].split('"')[0])))
    assert film.format == "GIF" and film.n_frames >= 3 and film.info["loop"] == 0 and len(page) < 150_000


def test_people_who_do_not_rest_have_a_journey_of_their_own():
    """Drawn with others at rest it is another picture than with the same others on their way."""
    still, moved = (fg.moving_spheres({"a": WAY}, {"a": others}, frames=4).data for others in (WAY[[0] * 6], WAY[::-1]))
    assert still == fg.moving_spheres({"a": WAY}, WAY[0], frames=4).data != moved


def test_six_answers_say_who_is_right_and_whose_photo_it_is():
    wrong = SEARCH._replace(correct=[False], names=["Bo"], cosines=[0.5])
    figure = fg.six_answers({"before": SEARCH, "block list": wrong})
    assert [ax.get_title("center") for ax in figure.axes[1:]] == ["before ✓", "block list ✗"]
    assert [ax.get_xlabel() for ax in figure.axes[1:]] == ["Ada, cos 0.90", "Bo, cos 0.50"]
    shown = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    assert all(map(np.array_equal, shown, (np.moveaxis(PHOTOS[i], 0, -1) for i in (0, 1, 1))))


def test_faces_on_a_map_lie_where_they_are_put_and_forgotten_ones_are_orange():
    figure = fg.thumbnail_map(PHOTOS[:3], [4, 5, 4], {"here": EMB[:3, :2], "there": -EMB[:3, :2]}, forget=[4])
    for ax, places in zip(figure.axes, (EMB[:3, :2], -EMB[:3, :2]), strict=True):
        assert np.allclose([box.xyann for box in ax.artists], places)
        frames = [matplotlib.colors.to_hex(box.patch.get_edgecolor()).upper() for box in ax.artists]
        assert frames[0] == frames[2] == fg.FORGET != frames[1]


def test_the_view_that_faces_some_points_has_them_in_front():
    for direction in ([0, 0, 1], [1, 0, 0], [-0.3, -0.9, -0.2], [0.5, -0.5, 0.7]):
        points = unit(np.array(direction) + 0.05 * RNG.normal(size=(6, 3)))
        assert (points @ fg.points._towards(fg.facing(points)) > 0.6).all()


# ---- names as people write them --------------------------------------------------------------------------------------

STATE = {"groups": [0.9, 0.8], "unseen": 0.7}
MEASURED = {"index": "IVF", "megabytes": 1.0, "median_ms": 0.3, "recall@10": 0.9}
ROLLED = {asks: {pool: [0.1, 0.5, 0.9] for pool in ("forget", "retain", "unseen")} for asks in ("new", "old")}
NAMED = {
    "recall_lines": lambda n: fg.recall_lines([MEASURED | {"index": n}], title=n),
    "rollover_lines": lambda n: fg.rollover_lines({n: ROLLED}, n),
    "mixed_scores": lambda n: fg.mixed_scores({n: ([0.9], [0.5], [0.0, 0.1])}, n),
    "gap_bars": lambda n: fg.gap_bars({n: 1e-7}, "gap", 1e-5, n),
    "photo_grid": lambda n: fg.photo_grid(PHOTOS[:2], [n, f"{n}\nb"], title=n),
    "identity_rows": lambda n: fg.identity_rows(PHOTOS, LABELS, [n] * 6, n),
    "alignment_steps": lambda n: fg.alignment_steps(np.moveaxis(PHOTOS[0], 0, -1), ALIGNED, title=n),
    "search_strip": lambda n: fg.search_strip(*SEARCH[:4], [n] * 3, n),
    "search_strips": lambda n: fg.search_strips([SEARCH._replace(names=[n] * 3, title=n)], n),
    "before_after_search": lambda n: fg.before_after_search([SEARCH._replace(title=n)], [SEARCH], n),
    "six_answers": lambda n: fg.six_answers({n: SEARCH._replace(names=[n] * 3)}, n),
    "thumbnail_map": lambda n: fg.thumbnail_map(PHOTOS[:2], [0, 1], {n: EMB[:2, :2]}, n),
    "take_home": lambda n: fg.take_home(SEARCH, SEARCH, {n: (1, 30.0)}, 400, n),
    "similarity_heatmap": lambda n: fg.similarity_heatmap({n: EMB}, LABELS, [n] * 6, n),
    "cosine_histograms": lambda n: fg.cosine_histograms([0.9], [0.1], names=(n, n), title=n),
    "sphere_scatter": lambda n: fg.sphere_scatter({n: fg.to_sphere(EMB)}, LABELS, [n] * 6, n),
    "sphere_film": lambda n: fg.sphere_film({n: WAY}, WAY[0], (0, 2), {n: n}, n),
    "best_dispersal": lambda n: fg.best_dispersal([2, 3], {n: [-1, 0.2]}, [-1, -0.5], n),
    "two_recognisers": lambda n: fg.two_recognisers(
        {"bins": [-1, 0, 1], "models": {n: {"title": n, "r1": 0.5, "same": [0.2, 0.8], "other": [0.9, 0.1]}}}, n
    ),
    "circle_scatter": lambda n: fg.circle_scatter({n: unit(RNG.normal(size=(5, 2)))}, n),
    "margin_curves": lambda n: fg.margin_curves(title=n),
    "photos_per_person": lambda n: fg.photos_per_person([0, 0, 1], 2, n),
    "precision_recall_walk": lambda n: fg.precision_recall_walk([1, 0], title=n),
    "roc_curve": lambda n: fg.roc_curve([0, 1], [0, 1], title=n),
    "identity_dots": lambda n: fg.identity_dots({n: [0.1]}, "AP", n),
    "score_bars": lambda n: fg.score_bars({n: SCORES["original"]}, title=n),
    "forgetting_panel": lambda n: fg.forgetting_panel(
        EMB[:4], EMB[4:8], [1, 1], [3, 40], {n: 1.0}, {n: 0.5}, gallery_size=90, person=n, title=n
    ),
    "pareto": lambda n: fg.pareto({n: SCORES["original"], "b": SCORES["retrain"]}, title=n),
    "front_figure": lambda n: fg.front_figure({n: (0.5, 0.5), "b": (0, 1)}, title=n),
    "loss_curve": lambda n: fg.loss_curve([1.0], n),
    "wrapper_diagram": lambda n: fg.wrapper_diagram(n),
    "steps_diagram": lambda n: fg.steps_diagram([(n, n)], n),
    "ablation_dots": lambda n: fg.ablation_dots([(n, n, [{p: {"map": 0.5} for p in fg.POOLS}])], n),
    "cost_bars": lambda n: fg.cost_bars({n: 10.0, "b": 1.0}, "photos", n, whole=n),
    "budget_grid": lambda n: fg.budget_grid({n: {2_000: SCORES["original"]}}, n),
    "size_lines": lambda n: fg.size_lines({n: {1: {"forget": 0.1, "unseen": 0.8}}}, n),
    "two_worlds": lambda n: fg.two_worlds({n: {n: SCORES["original"]}, "b": {n: SCORES["retrain"]}}, title=n),
    "request_lines": lambda n: fg.request_lines({n: [[STATE] * 3] * 2}, n),
    "attackers_diagram": lambda n: fg.attackers_diagram({n: (n,), "photos": ()}, (n, "b"), n),
    "audit_page": lambda n: fg.audit_page([row | {"title": n} for row in AUDIT], n),
    "audit_map": lambda n: fg.audit_map({n: [row | {"title": n} for row in AUDIT]}, n),
    "attackers_map": lambda n: fg.attackers_map({n: {n: 0.25, "photos": 1.0}}, n),
    "relearning_curves": lambda n: fg.relearning_curves({n: {"0": 0.1, "5": 0.4}}, n),
}  # fmt: skip
AWKWARD = (
    "A$AP $Rocky_",
    r"\frac{1}{$",
    "_x^{2}%",
    "two\nlines\t\x1b[0m",
    "",
    "W" * 300,
    "\u202eada",
    "a\udcffb",
    "u̶n",
    "|" * 9,
)


def drawn(figure: Figure) -> str:
    """What is to be read in a figure, after it was drawn with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", bbox_inches="tight")
    return texts(figure)


def test_every_figure_takes_awkward_names():
    made = {name for name, made in vars(fg).items() if getattr(made, "__annotations__", {}).get("return") == "Figure"}
    assert {name for name in made if name[0] != "_"} - {"finished", "page", "split_map"} == set(NAMED)


@pytest.mark.parametrize("figure", NAMED)
def test_a_name_is_drawn_as_it_is_written(figure):
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not even the course's style is needed
        shown = drawn(NAMED[figure]("A$AP $Rocky_"))
    assert r"A\$AP" in shown and "$Rocky_" not in shown and "$" not in shown.replace(r"\$", "")


def test_awkward_names_are_drawn_without_a_warning():
    fg.base._say_what_lacks.cache_clear()
    some = {"forget": 0.1, "unseen": 0.8}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ours, about the font; drawing itself is strict
        made = [
            fg.similarity_heatmap(np.eye(len(AWKWARD)), range(len(AWKWARD)), AWKWARD),
            fg.size_lines({name: {1: some, 5: some} for name in AWKWARD}),
            fg.search_strip(*SEARCH[:4], AWKWARD[2:5], "\n".join(AWKWARD)),
        ]
    assert all(len(line) < 130 for figure in made for line in drawn(figure).splitlines())


def test_words_by_hand():
    assert fg.words("A$AP_Rocky") == r"A\$AP Rocky" and fg.words(r"a\$b") == r"a\\$b"
    assert fg.words("e\u0301 \u200bx\u200d") == "é x" and fg.words(" two\nlines_") == "two lines"
    assert fg.words("two\nlines_of words", 12) == "two lines o…" and fg.words("ab", 2) == "ab"
    assert fg.lines_of("two\nlines_of") == "two\nlines of"
    assert fg.person(7, {7: "Ada_L"}) == "Ada_L" and fg.person(7, {7: " _"}) == "#7"
    assert fg.alt_text(fg.photo_grid(PHOTOS[:1], title="A$AP")).startswith("A$AP. ")


@pytest.fixture
def fonts(monkeypatch):
    """Let the machine have the fonts of matplotlib alone, and some more if asked."""
    own = [font for font in fg.fontManager.ttflist if font.name == fg.FONT]

    def have(*more):
        monkeypatch.setattr(fg.fontManager, "ttflist", own + [font for font in ALL_FONTS if font.name in more])
        fg.base._font_of.cache_clear()
        fg.base._say_what_lacks.cache_clear()

    yield have
    fg.base._font_of.cache_clear()
    fg.base._say_what_lacks.cache_clear()


ALL_FONTS = tuple(fg.fontManager.ttflist)


def test_without_a_font_a_name_is_its_label_and_that_is_said_once(fonts):
    fonts()
    names = ["黄宏", "Ada", "𓀀_x", "D", "E", "𓀁"]
    with pytest.warns(UserWarning, match="drawn as its label") as told:
        figure = fg.identity_rows(PHOTOS, LABELS, names, "People of 黄宏")
        heat = fg.similarity_heatmap(EMB, LABELS, names)
    assert len(told) == 1
    shown = drawn(figure)
    assert "#2" in shown and "#0" in shown and "#5" in shown and r"People of \u9ec4\u5b8f" in shown
    assert "#0" in drawn(heat) and "黄" not in shown
    assert fg.words("\u9ec4" * 9, 12) == r"\u9ec4\u9ec…"


def test_a_font_that_has_the_characters_is_used(fonts):
    character = "\U0001d4d0"  # a script A that STIX has and DejaVu Sans here is told not to
    fonts("STIXGeneral")
    lacks = [c for c in map(chr, range(0x1D400, 0x1D800)) if fg.base._font_of(c) == "STIXGeneral"]
    assert lacks, "STIX has mathematical letters that DejaVu Sans lacks"
    character = lacks[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = fg.identity_rows(PHOTOS, LABELS, [character] * 6, "people")
    assert character in drawn(figure)
    assert figure.axes[0].yaxis.label.get_fontfamily() == [fg.FONT, "STIXGeneral"]


def colours_of(artist) -> list:
    for get in ("get_facecolor", "get_color"):
        if hasattr(artist, get):
            return np.atleast_2d(np.array([matplotlib.colors.to_rgba_array(getattr(artist, get)())])[0])[:, :3].tolist()
    return []


def labelled(figure: Figure):
    """Every artist with a label, and the bars of a container that has one."""
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            yield label, handle.patches[0] if hasattr(handle, "patches") else handle


@pytest.mark.parametrize("name", CASES)
def test_forget_is_orange_and_nothing_else_is(name):
    said = {"forget": fg.FORGET, "retain": fg.RETAIN, "unseen": fg.UNSEEN}
    after = {"after", "after: median 21.5", "after unlearning"}
    figure = CASES[name]()
    for label, artist in labelled(figure):
        pool = next((pool for pool in said if label.startswith(pool)), "forget" if label in after else None)
        for colour in colours_of(artist):
            assert same_color(colour, said[pool]) if pool else not same_color(colour, fg.FORGET), (label, colour)
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            assert same_color(axis.label.get_color(), fg.FORGET) == ("forg" in axis.label.get_text())


def test_forgotten_people_are_orange_on_the_sphere_whatever_their_place():
    for forget, orange in (((0, 5), {0, 5}), ((), set())):
        figure = fg.sphere_scatter(fg.to_sphere(EMB), LABELS, NAMES, forget=forget)
        handles = dict((label, handle) for label, handle in labelled(figure))
        for label in (2, 0, 5):
            colour = handles[fg.name_of(label, NAMES)].get_facecolor()[0][:3]
            assert same_color(colour, fg.FORGET) == (label in orange)


@pytest.mark.parametrize(
    ("name", "colour"),
    [("forgotten people", fg.FORGET), ("never-seen people", fg.UNSEEN), ("held-out photos of forget people", fg.FORGET),
     ("Retained", fg.RETAIN), ("retrain", "x"), ("unforgettable", "x")],
)  # fmt: skip
def test_a_pool_is_known_by_its_name(name, colour):
    assert fg.colour_of(name, "x") == colour
