import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from kacc.report.comparison import Variant, comparison_record, comparison_table
from kacc.report.plot import comparison_plot

VARIANTS = [
    Variant("float Keras", "a.keras", 0.9911, 103_416, 0.3662),
    Variant("float32 TFLite", "b.tflite", 0.9911, 107_056, 0.0037, 1.0),
    Variant("QAT int8", "c.tflite", 0.9867, 35_936, 0.0025, 0.998, 0.9973),
]


def test_table_fits_a_narrow_terminal_and_shows_every_figure():
    out = io.StringIO()
    Console(file=out, width=80).print(comparison_table(VARIANTS, "digits"))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    last = next(line for line in lines if "QAT int8" in line).split()
    assert last[2:] == ["98.67%", "35,936", "0.35x", "2.5", "µs", "99.80%", "99.73%"]
    first = next(line for line in lines if "float Keras" in line).split()
    assert first[2:] == ["99.11%", "103,416", "1.00x", "366.2", "µs"]


def test_record_gives_the_variants_back():
    rows = [Variant(**row) for row in comparison_record(VARIANTS)]
    assert rows == VARIANTS


@pytest.mark.parametrize("count", [1, 2, 3])
def test_plot_is_a_picture_with_a_bar_for_each_variant(count):
    png = comparison_plot(VARIANTS[:count], "digits")
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert pixels.shape[1] > 1000
    # Down a column through the size panel, which starts in the second third: runs of
    # one colour that is not white.
    column = pixels[:, int(pixels.shape[1] * 0.45)].sum(-1) < 700
    bars = np.flatnonzero(np.diff(column.astype(int)) == 1)
    assert len(bars) == count
