"""Arguments that several sub-commands take."""

from __future__ import annotations

import argparse

# What pixels a model takes, and how wide that range is; images hold 0..255.
PIXEL_RANGES = {"0..255": (0.0, 255.0), "0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0)}


def positive(text: str) -> int:
    """Read a whole number of at least 1.

    Args:
        text: the word on the command line.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: the word is no such number.

    Example:
        >>> positive("3")
        3
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"takes a whole number from 1 on, not {text!r}"
        )
    return int(text)


def add_pixels(parser: argparse.ArgumentParser) -> None:
    """Declare --pixels."""
    parser.add_argument(
        "--pixels",
        choices=tuple(PIXEL_RANGES),
        default="0..255",
        help="the range of pixel values that the model takes",
    )
