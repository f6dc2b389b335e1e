"""The colours, marks and look that all figures share, for readers with any colour vision."""

import matplotlib
from matplotlib.ticker import FuncFormatter

# Okabe and Ito's palette: eight colours that people with any common colour vision tell apart; two of Tol's besides.
FORGET, RETAIN, UNSEEN = "#D55E00", "#0072B2", "#009E73"
ORIGINAL, RETRAIN, ACCENT = "#3B3B3B", "#CC79A7", "#56B4E9"
CHANCE, INK, PAPER = "#6B6B6B", "#222222", "#FFFFFF"
CORRECT, WRONG = "#009E73", "#882255"
FRONT = "#332288"
CYCLE = (RETAIN, ACCENT, UNSEEN, RETRAIN, ORIGINAL, FRONT, "#F0E442")  # never FORGET: orange is who was forgotten
POOLS = {"forget": FORGET, "retain": RETAIN, "unseen": UNSEEN}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
TENS = (1, 10, 100, 1000, 10_000)
METRICS = {"r1": "R@1", "r5": "R@5", "map": "mAP"}
HEAT = "cividis"
FONT = "DejaVu Sans"
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
