import io

import pytest
from rich.console import Console

from kacc.augmentation import progress
from kacc.augmentation.progress import Progress


def shown(steps, terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80)
    with Progress("reading images", steps, console) as bar:
        for _ in range(steps):
            bar.advance()
    assert bar.count == steps
    return file.getvalue()


def test_short_work_shows_nothing():
    assert shown(3, terminal=True) == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_long_work_shows_a_bar_on_terminals(monkeypatch, terminal):
    monkeypatch.setattr(progress, "_QUIET_SECONDS", -1)
    assert ("reading images" in shown(3, terminal)) == terminal
