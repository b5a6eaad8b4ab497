"""A picture of what a policy does."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from kacc.augmentation import checks
from kacc.augmentation.apply import augment
from kacc.core.errors import UsageError

_CELL = 96  # pixels of the longer side, at least
_GAP = 4
_APART = 16  # between originals and changed images
_MARGIN = 12
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def draw_grid(policy: Any, images: Any, path: Any, columns: int, rows: int) -> Path:
    """See `Policy.preview`."""
    checks.whole("`columns`", columns, 1, 100)
    checks.whole("`rows`", rows, 1, 100)
    batch = np.asarray(images)
    if batch.ndim != 4 or len(batch) == 0:
        raise UsageError(
            "Images must come as a batch (n, height, width, channels)",
            received=batch.shape if batch.ndim else type(images).__name__,
            fix="Of a dataset, pass the images of next(iter(dataset))",
        )
    path = Path(path)
    if not path.parent.is_dir():
        raise UsageError(
            "The folder of the picture must exist",
            received=str(path),
            fix="Make it by path.parent.mkdir(parents=True)",
        )
    if batch.dtype != np.uint8:
        batch = batch.astype(np.float32)
    shown, changed = batch[:rows], []
    for column in range(columns):
        # The whole batch, so that images find partners to mix with.
        fields = augment(policy, (policy.seed, column, 0), {"images": batch})
        changed.append(fields["images"].numpy()[:rows])
    grid = [[original, *(c[i] for c in changed)] for i, original in enumerate(shown)]
    low, high = _ends(policy, batch, changed)
    picture = _drawn(grid, low, high, _title(policy))
    picture.save(path, format="PNG")
    return path


def _ends(policy: Any, batch: np.ndarray, changed: list[np.ndarray]) -> Any:
    """What is black and what is white, for originals and for changed images."""
    if batch.dtype == np.uint8:
        given = (0.0, 255.0)
    elif policy.value_range is not None:
        given = policy.value_range
    else:
        given = (float(batch.min()), float(batch.max()))
    low, high = zip(given, _rescaled(policy, given), strict=True)
    return low, high


def _rescaled(policy: Any, ends: tuple[float, float]) -> tuple[float, float]:
    from kacc.augmentation.config_values import Rescale

    for rescale in policy.all(Rescale):
        first, second = (end * rescale.scale + rescale.offset for end in ends)
        ends = min(first, second), max(first, second)
    return ends


def _title(policy: Any) -> str:
    return ", ".join(str(transform) for transform in policy.transforms)


def _drawn(grid: list[list[np.ndarray]], low: Any, high: Any, title: str) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    height, width = grid[0][0].shape[:2]
    # Whole multiples: pixels of small images stay squares.
    zoom = max(1, -(-_CELL // max(height, width)))
    cell_x, cell_y = width * zoom, height * zoom
    count = len(grid[0])
    total = 2 * _MARGIN + count * (cell_x + _GAP) - _GAP + _APART
    title_font, font = (ImageFont.load_default(size) for size in (13, 12))
    lines = textwrap.wrap(title, max(10, int((total - 2 * _MARGIN) / 7)))[:6]
    top = _MARGIN + 17 * len(lines) + 24
    size = (total, top + len(grid) * (cell_y + _GAP) - _GAP + _MARGIN)
    picture = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + 17 * number), line, fill=_INK, font=title_font)
    changed_at = _MARGIN + cell_x + _GAP + _APART
    pen.text((_MARGIN, top - 18), "original", fill=_INK, font=font)
    pen.text((changed_at, top - 18), "augmented", fill=_INK, font=font)
    for row, cells in enumerate(grid):
        for column, image in enumerate(cells):
            x = _MARGIN + column * (cell_x + _GAP) + (_APART if column else 0)
            y = top + row * (cell_y + _GAP)
            which = min(column, 1)
            pixels = Image.fromarray(_pixels(image, low[which], high[which]))
            picture.paste(
                pixels.resize((cell_x, cell_y), Image.Resampling.NEAREST), (x, y)
            )
    return picture


def _pixels(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Red, green and blue; of other numbers of channels the first is grey."""
    colours = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, -1)
    share = (colours.astype(np.float32) - low) / max(high - low, 1e-12)
    return np.clip(np.rint(share * 255), 0, 255).astype(np.uint8)
