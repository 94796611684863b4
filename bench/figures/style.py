"""One look for all figures, and files whose bytes depend on their content alone."""

from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench import store

# Okabe and Ito's colours: told apart with any colour vision; every series also has its own marker.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "lethe",  # else names inside the file differ each time
    "savefig.dpi": 160,
}


def save(figure: Figure, path: Path) -> None:
    """Write `path` with the suffixes .pdf, .svg and .png, without dates, and close the figure."""
    for suffix, metadata in {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}.items():
        buffer = BytesIO()
        with plt.rc_context(STYLE):
            figure.savefig(buffer, format=suffix[1:], metadata=metadata)
        store.write_bytes(path.with_suffix(suffix), buffer.getvalue())
    plt.close(figure)
