"""The reliability curve as a picture: how often a score comes true."""

import math
from collections.abc import Sequence
from pathlib import Path

from services.moderation.evaluation.quality import Quality
from shared.errors import SettingsError

_COLUMNS = 3
_INCHES = 3.2


def draw_reliability(qualities: Sequence[Quality], file: Path) -> None:
    """A panel per category that has positives, as PNG. A dot is a bin; its area tells how many texts lie in it. Raises
    SettingsError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise SettingsError("the curve needs matplotlib: install chatmesh[evaluation]") from error
    shown = [each for each in qualities if each.positives]
    columns = max(1, min(_COLUMNS, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(columns * _INCHES, rows * _INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    for place, quality in enumerate(shown, 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        scores, shares = [each.score for each in quality.bins], [each.share for each in quality.bins]
        axes.plot(scores, shares, color="tab:blue", linewidth=1)
        axes.scatter(scores, shares, s=[10 + 400 * each.texts / quality.texts for each in quality.bins], alpha=0.6)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="score", ylabel="share that is positive")
        axes.set_title(f"{quality.category}\n{quality.positives} of {quality.texts}", fontsize=9)
    figure.savefig(file, dpi=120)
