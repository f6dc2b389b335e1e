"""What every figure shares: pages and axes, words in any script, and alt text."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter, NullLocator
from numpy.typing import ArrayLike
from PIL import Image

from ...tables import columns, one_line
from .palette import FONT, INK, PERCENT, POOLS, STYLE

UNSAID = {ord("_"): " "} | dict.fromkeys(map(ord, "\u200c\u200d\ufe0e\ufe0f"))  # without a shape of their own
MOST_SAID = 600  # characters of a figure's description


def use_style() -> None:
    """Set the course's look (fonts that a projector and a phone can read, 110 dpi). Introduced in notebook 00."""
    matplotlib.rcParams.update(STYLE)
    plt.switch_backend(matplotlib.get_backend())  # loads Jupyter's backend now, so that it cannot undo the next lines
    if shell := get_ipython():
        shell.display_formatter.formatters["image/png"].for_type(Figure, compact_png)


def alt_text(figure: Figure) -> str:
    """Return what a screen reader says of a figure: titles, axes' labels, legend, written values. Notebook 00."""
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
    """Return a figure as PNG bytes with 256 colours, a quarter of the usual size, and its alt text. Notebook 00."""
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
    """Return a name as a figure draws it: no formula, at most so many columns, codes for what no font has."""
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


def name_of(label: int, names: Sequence[str] | None) -> str:
    return words(person(label, names), 16) if names is not None else str(label)


def colour_of(name: str, default: str) -> str:
    """Return the colour of the pool that a name speaks of (forgotten people are orange), or the default."""
    found = re.search(r"\b(forg[eo]t|retain|unseen|never-seen)", str(name).casefold())
    key = {"forgot": "forget", "never-seen": "unseen"}.get(found[1], found[1]) if found else ""
    return POOLS.get(key, default)


def page(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def one(width: float, height: float) -> tuple[Figure, Axes]:
    fig = page(width, height)
    return fig, fig.subplots()


def row_of(n: int, width: float, height: float, **look: object) -> tuple[Figure, list[Axes]]:
    """Return a page with n axes side by side."""
    fig = page(width, height)
    return fig, list(fig.subplots(1, n, squeeze=False, **look)[0])


def panels(
    n: int, columns: int, width: tuple[float, float], height: tuple[float, float], **look: object
) -> tuple[Figure, list[Axes]]:
    """Return a page with n axes, so many in a line; sizes are (inches of each, inches besides)."""
    rows = -(-n // columns)
    fig = page(width[0] * columns + width[1], height[0] * rows + height[1])
    axes = list(fig.subplots(rows, columns, squeeze=False, **look).flat)
    for ax in axes[n:]:
        ax.set_axis_off()
    return fig, axes[:n]


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


def show_photo(ax: Axes, image: ArrayLike, frame: str | None = None) -> None:
    """Draw one photo (3, S, S) uint8, with a frame of some colour or none."""
    ax.imshow(np.moveaxis(np.asarray(image), 0, -1), interpolation="bilinear")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=frame is not None, color=frame or INK, linewidth=4)


def gridded(ax: Axes, axis: str = "both", percent: str = "") -> None:
    """Draw a grid behind the data; the axes named in `percent` count in percent."""
    ax.grid(True, axis=axis)
    ax.set_axisbelow(True)
    for name in percent:
        getattr(ax, f"{name}axis").set_major_formatter(PERCENT)
        getattr(ax, f"{name}axis").set_minor_formatter(NullFormatter())


def log_ticks(ax: Axes, axis: str, ticks: Sequence[int], last: float = np.inf, **look: object) -> None:
    """Write plain numbers, those up to `last`, on a logarithmic axis."""
    shown = [tick for tick in ticks if tick <= last]
    getattr(ax, f"set_{axis}ticks")(shown, [f"{tick:,}" for tick in shown], **look)
    getattr(ax, f"{axis}axis").set_minor_locator(NullLocator())


def legend_below(fig: Figure, ax: Axes, ncols: int) -> None:
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=ncols)


def share_histogram(
    ax: Axes, values: np.ndarray, bins: np.ndarray, label: str, colour: str, line: str, width: float = 2
) -> None:
    """Draw a histogram whose heights add up to 1."""
    look = dict(histtype="stepfilled", facecolor=to_rgba(colour, 0.3), edgecolor=colour, linestyle=line)
    ax.hist(values, bins, weights=np.full(values.size, 1 / max(values.size, 1)), label=label, linewidth=width, **look)
