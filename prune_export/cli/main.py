"""Runs the command line `prune-export`: finds the verb, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 an error, 2 wrong usage, 3 parity failed, 4 below a quality limit,
130 interrupted (Ctrl-C), 143 terminated.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol, cast

from exporters import secrets
from exporters.errors import PruneExportError
from prune_export.cli.command import Printing
from prune_export.cli.logs import logs
from prune_export.cli.parser import NumberError, add_options
from prune_export.cli.printing import say


class Verb(Protocol):
    """A module of this package with a verb; its docstring is the verb's description.

    `OPTIONS` is the dataclass of the public function's options, `COMMAND` that of the options of the command line alone.
    """

    __doc__: str | None
    OPTIONS: Any
    COMMAND: Any

    def run(self, given: dict[str, Any], command: Any) -> int:
        """Calls the public function with the options that are `given`, and prints; returns the exit code."""


VERBS = ("export", "verify", "inspect", "evaluate", "bench", "prune", "search", "profile", "train")

_EPILOG = """\
verbs:
  prune-export --model M --output O     exports (the verb may be left out)
  prune-export verify …                 compares an exported model with its checkpoint
  prune-export inspect …                shows what is pruned in a checkpoint
  prune-export evaluate …               measures models on real data with the official metrics
  prune-export bench …                  measures a checkpoint and its exports side by side
  prune-export prune …                  prunes a dense checkpoint to a budget, without training
  prune-export search …                 finds the best subarchitectures in error, latency and size
  prune-export train …                  prunes while training, by a recipe
  prune-export profile …                measures what heads and columns cost in time here
"""


_DASHES = re.compile("[-–—]")  # those of texts, too, from which command lines are copied
_AGAIN_SECONDS = 0.01  # after which the destructor is left
_SECRET_WORDS = ("token", "secret", "passw", "auth", "key", "cred")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = words.pop(0) if words and words[0] in VERBS else "export"
    module = verb_module(verb)
    parser = parser_of(verb)
    parser.json = "--json" in words
    _register_tokens(words, parser._option_string_actions)
    try:
        given = vars(parser.parse_args(words))
    except argparse.ArgumentError as error:
        if not isinstance(error.__context__, NumberError):
            parser.error(str(error))
        return _fail(f"{error.argument_name} {error.message}", 2, Printing(json=parser.json))
    except OSError as error:  # BrokenPipeError: whoever read it has read enough
        if not isinstance(error, BrokenPipeError):
            say(f"prune-export: error: the help could not be printed: {error.strerror}")
        return 1
    _import_libraries()
    signal.signal(signal.SIGTERM, _terminate)
    options = Printing(**{name: given[name] for name in ("json", "quiet", "verbose") if name in given})
    try:
        with logs(options):
            _warn_of_shared_package()
            given = _with_homes(given)
            command = module.COMMAND(**_taken(given, module.COMMAND))
            return module.run(given, command)
    except PruneExportError as error:
        return _fail(str(error), error.exit_code, options)
    except KeyboardInterrupt as stop:
        return _fail(_with_notes("interrupted", stop), 130, options)
    except _Terminated as stop:
        return _fail(_with_notes("terminated", stop), 143, options)
    except BrokenPipeError:
        return 1  # the reader of our output is gone, and there is nobody to tell
    except MemoryError as error:
        return _fail(_with_notes("out of memory", error), 1, options)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, of a GPU
            raise
        advice = "out of the GPU's memory; smaller batches need less"
        return _fail(_with_notes(advice, error), 1, options)


def verb_module(verb: str) -> Verb:
    """Imports the verb's module alone, because those of the other verbs take time."""
    module: Any = import_module(f"prune_export.cli.{verb}")
    return cast(Verb, module)


def parser_of(verb: str) -> _Parser:
    """Returns the parser of a verb."""
    module = verb_module(verb)
    parser = _Parser(
        prog="prune-export" if verb == "export" else f"prune-export {verb}",
        description=module.__doc__,
        epilog=_EPILOG if verb == "export" else getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    add_options(parser, module.OPTIONS, module.COMMAND)
    if verb == "export":
        parser.add_argument(
            "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="print versions and exit"
        )
    return parser


def _taken(given: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Takes the options of the dataclass `kind` out of `given`."""
    return {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}


def _import_libraries() -> None:
    """Imports what every verb needs; Ctrl-C and SIGTERM meanwhile end the process at once.

    Nothing is written yet, so there is nothing to clean up; and an exception would be swallowed by the C code of torch and
    numpy that imports further modules, or leave those half-imported.
    """
    before = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        import msgspec  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    word = b"interrupted" if number == signal.SIGINT else b"terminated"
    with suppress(OSError):
        os.write(2, b"prune-export: error: " + word + b"; nothing was changed\n")
    os._exit(128 + number)


def _with_notes(message: str, stop: BaseException) -> str:
    """Adds the notes of the transaction: whether the output had been put in place."""
    from prune_export.files.transaction import last_completed

    notes = getattr(stop, "__notes__", [])
    if not notes and (complete := last_completed()) is not None:
        notes = [f"{complete} was complete before that"]
    return "; ".join([message, *notes])


def _register_tokens(words: Sequence[str], known: Collection[str]) -> None:
    """Registers the word after --token, or after a misspelling of it, as a secret, before any message quotes the words.

    `known` are the verb's options.
    """
    for word, following in zip(words, [*words, ""][1:], strict=True):
        option, _, value = word.partition("=")
        if option == "--token":
            secrets.register(value or following)
        elif _DASHES.match(option) and option not in known and _may_be_token(option):
            for candidate in (value, re.split("token", option, maxsplit=1, flags=re.IGNORECASE)[-1], following):
                if not _DASHES.match(candidate):
                    secrets.register(candidate)


def _may_be_token(option: str) -> bool:
    parts = re.split(r"[\W_]+", option.lower())
    near = difflib.get_close_matches("token", [part[:10] for part in parts], cutoff=0.7)
    return bool(near) or any(word in option.lower() for word in _SECRET_WORDS)


def _warn_of_shared_package() -> None:
    from prune_export.distributions import shared_exporters

    if (warning := shared_exporters()) is not None:
        logging.getLogger("prune_export").warning("%s", warning)


def _with_homes(given: dict[str, Any]) -> dict[str, Any]:
    """Replaces `~` in paths by the home, where the shell has left it as it is."""
    from prune_export.files.reading import expanded

    return {name: expanded(value) if isinstance(value, Path) else value for name, value in given.items()}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    json = False

    def error(self, message: str) -> NoReturn:
        from prune_export.files.reading import clipped

        message = clipped(secrets.redacted(message), 500)
        if self.json:
            _print_error(message, 2)
        say(f"prune-export: error: {message} ({self.prog} --help lists all options)")
        raise SystemExit(2)


def _fail(message: str, code: int, options: Printing) -> int:
    message = secrets.redacted(message)
    if options.json:
        _print_error(message, code)
    say(f"prune-export: error: {message}")
    return code


def _print_error(message: str, code: int) -> None:
    if sys.stdout is not None:
        with suppress(OSError):
            print(json.dumps({"error": message, "exit_code": code}), flush=True)


class _Terminated(BaseException):
    """SIGTERM, raised so that cleaning up runs."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _deliver_again(swallowed: Any) -> None:
    """Sends a signal again whose exception was raised in a destructor, where Python prints it and goes on.

    This is `sys.unraisablehook`; other exceptions are printed as usual.
    """
    number = {KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM}.get(swallowed.exc_type)
    if number is None:
        sys.__unraisablehook__(swallowed)
        return
    timer = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from prune_export.facts.record import versions

        for package, version in versions().items():
            print(package, version)
        parser.exit()


def entry() -> None:
    """Runs the installed command, and ends the process without Python's own clean-up.

    Unloading torch and transformers module by module would take Python most of a second.
    """
    _open_standard_files()
    sys.unraisablehook = _deliver_again
    try:
        code = main()
        for number in (signal.SIGINT, signal.SIGTERM):  # what is left to do is ended by them at once
            signal.signal(number, signal.SIG_DFL)
    except KeyboardInterrupt:
        code = 130
    except _Terminated:
        code = 143
    except SystemExit as stop:  # argparse's: help, or a wrong command line
        code = stop.code if isinstance(stop.code, int) else 0
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, full, or not there
            stream.flush()
    os._exit(code)


def _open_standard_files() -> None:
    """Opens stdin, stdout and stderr where they were closed, so that no later file gets their numbers.

    Characters that stdout's encoding lacks are printed as "?".
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    entry()
