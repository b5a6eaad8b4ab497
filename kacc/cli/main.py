"""The command `kacc`: finds the sub-command, runs it, turns errors into a line."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import NoReturn

import kacc
from kacc.cli import convert, demo, inspect, micro
from kacc.cli.interruption import INTERRUPTED, end_on_interrupt
from kacc.core.errors import KaccError, UsageError

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "convert": convert,
    "inspect": inspect,
    "micro": micro,
}


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UsageErrors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, fix=f"See `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; by default those of the process, which Ctrl-C then ends.

    Returns:
        The exit code: 0, 1 for a failure, 2 for a wrong call.

    Example:
        >>> main(["--version"])  # doctest: +ELLIPSIS
        kacc ...
        0
    """
    if argv is None:
        argv = sys.argv[1:]
        end_on_interrupt()
    argv = list(argv)
    debug = "--debug" in argv
    try:
        _run(argv)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of our output has left: `kacc ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _report("interrupted", INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(_one_line(error), getattr(error, "exit_code", 1))


def _run(argv: list[str]) -> None:
    _check_command(argv)
    parser, parsers = _parsers(argv)
    try:
        args, unknown = parser.parse_known_args(argv)
    except SystemExit:  # after --help and --version
        return
    if unknown:
        _refuse(unknown, parsers[args.command])
    _prepare_backend(debug="--debug" in argv)
    COMMANDS[args.command].run(args)


def _parsers(argv: list[str]) -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of the command, and those of its sub-commands by name."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show tracebacks and TensorFlow's messages",
    )
    parser = _Parser(
        prog="kacc",
        description="Keras 3 models, small and fast: optimize, convert, compare.",
        epilog="`kacc COMMAND --help` says more about a command.",
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"kacc {kacc.__version__}",
    )
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands"
    )
    parsers = {}
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        parsers[name] = subparsers.add_parser(
            name,
            help=summary.partition(": ")[2].rstrip("."),
            description=module.DESCRIPTION,
            parents=[common],
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        if name in argv:  # the choices of some arguments take a while to import
            module.add_arguments(parsers[name])
    return parser, parsers


def _check_command(argv: list[str]) -> None:
    # No option before the command takes a value: the first plain word is the command.
    command = next((word for word in argv if not word.startswith("-")), None)
    if command in COMMANDS or {"-h", "--help", "--version"} & set(argv):
        return
    if command is None:
        raise UsageError(
            f"a command is needed: {', '.join(COMMANDS)}", fix="See `kacc --help`"
        )
    raise UsageError(
        "there is no such command",
        received=command,
        fix=_suggestion(command, COMMANDS) or f"The commands are {', '.join(COMMANDS)}",
    )


def _refuse(unknown: list[str], parser: argparse.ArgumentParser) -> NoReturn:
    word = unknown[0].partition("=")[0]
    options = set(re.findall(r"--[a-z][a-z-]*", parser.format_help()))
    raise UsageError(
        f"`{parser.prog}` takes no such argument",
        received=word,
        fix=_suggestion(word, options) or f"See `{parser.prog} --help`",
    )


def _suggestion(word: str, names: Iterable[str]) -> str:
    close = get_close_matches(word, sorted(names), n=1)
    return f"Perhaps `{close[0]}` was meant" if close else ""


def _prepare_backend(debug: bool) -> None:
    """Settle Keras's backend and TensorFlow's chatter before either is imported."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if not debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, KaccError):
        return text
    text = text if len(text) <= 300 else f"{text[:300]} ..."
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _report(message: str, code: int) -> int:
    print(f"kacc: {message}", file=sys.stderr)  # noqa: T201
    return code
