"""What the words of all commands of `memjax` have in common. Importing it does not import JAX."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NoReturn

from memjax.commands import argument_types
from memjax.commands.interrupts import ending_at_once

MOST_CHARACTERS = 1_000  # of an error line; a value in it may be longer


def fail(message: str, code: int) -> int:
    """Prints one line and returns the exit code. The line may hold what others wrote: no byte of it acts."""
    text = " ".join(message.split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS // 2]} ... {text[-MOST_CHARACTERS // 2 :]}"
    print(f"memjax: error: {text}", file=sys.stderr)
    return code


def without_traceback(run: Callable[[], int]) -> int:
    """Mistakes and failures outside memjax as one line; a bug of memjax still shows its traceback."""
    with ending_at_once():
        from memjax.types import ConfigError, RunEnded

    try:
        with _no_interrupt_lost():
            return run()
    except ConfigError as error:
        return fail(str(error), 2)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except BrokenPipeError:  # whoever reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        named = error.filename is not None and error.strerror
        return fail(f"{error.filename}: {error.strerror}" if named else f"{type(error).__name__}: {error}", 1)
    except MemoryError as error:
        return fail(f"MemoryError: {error}", 1)
    except RunEnded as error:
        return fail(str(error), error.exit_code)


@contextlib.contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """A Ctrl-C that comes while Python runs a callback of its own, which raises nothing, comes once more."""
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()  # after that callback
        else:
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


class Parser(argparse.ArgumentParser):
    """Says a mistake on one line instead of printing the usage before it."""

    takes_workdirs = ""  # "one" or "several"
    is_command = False
    commands: Collection[str] = ()  # of `memjax` itself

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2 and one line."""
        raise SystemExit(fail(f"{message} (see {self.prog} --help)", 2))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, and then the directories of runs from both places where they may stand."""
        words = sys.argv[1:] if args is None else args
        if self.commands and words and not words[0].startswith("-") and words[0] not in self.commands:
            from memjax.schema import one_of

            self.error(f"COMMAND: expected {one_of(words[0], self.commands)}, got '{words[0]}'")
        self._check_options(words)
        arguments, rest = super().parse_known_args(args, namespace)
        if self.takes_workdirs:
            try:
                late = [
                    argument_types.place(word) for word in rest if not word.startswith("-")
                ]  # after an option
            except argparse.ArgumentTypeError as error:
                self.error(str(error))
            rest = [word for word in rest if word.startswith("-")]
            found = [*arguments.positional, *late, *arguments.named]
            if not found:
                self.error("expected the directory of a run: DIR or --workdir=DIR")
            if len(found) > 1 and self.takes_workdirs == "one":
                self.error(f"expected one directory of a run, got {', '.join(map(str, found))}")
            arguments.workdirs, arguments.workdir = found, found[0]
        if rest and self.is_command:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return arguments, rest

    def _check_options(self, words: Sequence[str]) -> None:
        """Says an option that a command has not, before argparse misses what it stands for."""
        known = [name for action in self._actions for name in action.option_strings]
        for name in (word.partition("=")[0] for word in words if self.is_command):
            if name.startswith("--") and name not in known:
                from memjax.schema import did_you_mean

                hint = did_you_mean(name[2:], (each[2:] for each in known), "--")
                field = " (a field is --config.FIELD=VALUE)" if self.get_default("takes_fields") else ""
                self.error(f"unrecognized argument: {name}{hint or field}")


def add_command(
    commands: Any, name: str, run: Callable[..., int], summary: str, text: str, workdirs: str = ""
) -> Parser:
    """A command with what all have in common; `workdirs` says whether it takes "one" or "several" runs."""
    raw = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser(
        name, help=summary, description=text, allow_abbrev=False, formatter_class=raw
    )
    command.set_defaults(run=run, takes_fields=False)
    command.takes_workdirs, command.is_command = workdirs, True
    if workdirs:
        help = "the directory of a run" + ("; may be repeated" if workdirs == "several" else "")
        command.add_argument("positional", nargs="*", type=argument_types.place, metavar="DIR", help=help)
        named = {"dest": "named", "action": "append", "default": [], "type": argument_types.place}
        command.add_argument("--workdir", metavar="DIR", help="the same", **named)
    imports = {"dest": "imports", "action": "append", "default": []}
    help = "import code of your own first (docs/extending.md); may be repeated"
    command.add_argument("--import", metavar="MODULE_OR_FILE", help=help, **imports)
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def add_many_runs(command: Parser) -> None:
    """The words of a command that launches many runs."""
    add = command.add_argument
    help = "where runs and results are kept"
    add("--workdir", type=argument_types.path, required=True, metavar="DIR", help=help)
    add("--workers", type=argument_types.positive, default=1, metavar="N", help="runs at a time (default: 1)")
    add("--dry-run", action="store_true", help="say what is left to do, and stop")


def add_processes(command: Parser) -> None:
    """The words of a command that several processes may run together."""
    add = command.add_argument
    help = "of a run by several processes: where process 0 is, the same in all"
    add("--coordinator", metavar="HOST:PORT", help=help)
    add("--num-processes", type=argument_types.positive, metavar="N", help="how many there are")
    add("--process-id", type=argument_types.natural, metavar="I", help="which one this is, from 0")


def add_profiling(command: Parser) -> None:
    """The words of `memjax profile` alone."""
    add = command.add_argument
    help = "keep the trace here (default: it is removed)"
    add("--out", type=argument_types.path, metavar="DIR", help=help)
    help = "compiled chunks to time (default: 5)"
    add("--chunks", type=argument_types.positive, default=5, metavar="N", help=help)
