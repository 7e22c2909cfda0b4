"""The picture of a run: loss by step and recall by epoch, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsearch.train.towers import replace_file, storage_errors

if TYPE_CHECKING:
    from PIL import ImageDraw

_WIDTH, _HEIGHT, _MARGIN = 560, 340, 56
_LOSS, _RECALL, _GRID, _INK = "#c2410c", "#1d4ed8", "#e5e7eb", "#111827"

Points = Sequence[tuple[float, float]]


def draw_curves(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Write `path` (PNG) from the lines of `metrics.jsonl`.

    Raises:
        StorageError: the disk is full or refuses.
    """
    from PIL import Image, ImageDraw

    loss = [(line["step"], line["loss"]) for line in metrics if line["kind"] == "step"]
    recall = [
        (line["step"], 100 * line["mean_recall"]) for line in metrics if line["kind"] == "epoch"
    ]
    picture = Image.new("RGB", (2 * _WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    _panel(pen, 0, "loss (nats) by step", loss, _LOSS)
    _panel(pen, _WIDTH, "mean validation recall (%) by step", recall, _RECALL)
    with storage_errors(path):
        replace_file(path, lambda draft: picture.save(draft, "PNG"))


def _panel(pen: ImageDraw.ImageDraw, left: int, title: str, points: Points, colour: str) -> None:
    pen.text((left + _MARGIN, 14), title, fill=_INK)
    if not points:
        return
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = min(0.0, *ys), max(max(ys), min(ys) + 1e-6)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return (
            left + _MARGIN + across * (_WIDTH - _MARGIN - 20),
            _HEIGHT - 36 - up * (_HEIGHT - 36 - 40),
        )

    for part in range(5):
        value = y_low + part * (y_high - y_low) / 4
        _, y = place(x_low, value)
        pen.line((place(x_low, value), place(x_high, value)), fill=_GRID)
        pen.text((left + 8, y - 6), f"{value:.3g}", fill=_INK)
    for value in (x_low, x_high):
        x, y = place(value, y_low)
        pen.text((x - 10, y + 8), f"{value:g}", fill=_INK)
    line = [place(x, y) for x, y in points]
    if len(line) > 1:
        pen.line(line, fill=colour, width=2, joint="curve")
    for x, y in line if len(line) <= 60 else ():
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
