"""Turns typed functions into commands: arguments from the signature, help from the docstring, faults in a line or two."""

import errno
import inspect
import os
import re
import sys
from argparse import HelpFormatter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser

from .errors import SonokitError

Command = Callable[..., None]
Group = Mapping[str, Command]
"""Commands that share a first word, such as ``sonokit store info``."""

_EXIT_FAULT = 2
_EXIT_PIPE = 141  # the shell's convention for a closed pipe
_EXIT_STOPPED = 130  # the shell's convention for Ctrl-C
_RESULT = "out"
# Faults of the place that a user names, not of sonokit: forbidden, read-only, full, a file where a folder should be.
_OF_THE_DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


class _OneLineParser(ArgumentParser):
    """A parser whose errors are the fault and the remedy, without the page of usage that hides them."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        return re.sub(r"<class\s+'(\w+)'>", r"\1", super().format_help(formatter))  # "type: Path", as Python writes it

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"{self.prog}: error: {' '.join(message.split())}\n{self.prog} --help explains every option.\n")
        sys.exit(_EXIT_FAULT)


def run_commands(
    commands: Mapping[str, Command | Group],
    description: str,
    version: str,
    arguments: Sequence[str] | None = None,
    *,
    program: str = "sonokit",
) -> int:
    """Run ``PROGRAM COMMAND …`` and return its exit status.

    Only the chosen command's parser is built, so that ``--help`` answers at once.

    Args:
        commands: Name → function, or a group of them; the first line of a docstring is its line in the list of commands.
        description: What the program is, for ``--help``.
        version: Printed for ``--version``.
        arguments: ``sys.argv[1:]`` by default.
        program: What was said before the command.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview(commands, description, program))
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"{program} {version}\n")
        return 0
    if words[0] not in commands:
        sys.stderr.write(f"{program}: error: there is no command {words[0]!r}. The commands: {', '.join(commands)}.\n")
        return _EXIT_FAULT
    chosen, name = commands[words[0]], f"{program} {words[0]}"
    if isinstance(chosen, Mapping):
        return run_commands(chosen, _of_group(chosen), version, words[1:], program=name)
    return run_command(chosen, name, words[1:])


def run_command(command: Command, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run one function as the command ``program`` and return its exit status.

    A :class:`SonokitError` becomes its message on standard error, without a traceback; any other exception is a defect and
    keeps its own.
    """
    parser = _parser(command, program)
    options = parser.parse_args(list(sys.argv[1:] if arguments is None else arguments))
    values: dict[str, Any] = {k: v for k, v in options.as_dict().items() if k not in ("config", "print_config")}
    try:
        command(**values)
        sys.stdout.flush()
    except SonokitError as error:
        sys.stderr.write(f"{program}: error: {error}\n")
        return _EXIT_FAULT
    except BrokenPipeError:  # whoever read the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return _EXIT_PIPE
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        sys.stderr.write(f"{program}: error: {error.filename or 'a file'}: {error.strerror}. Mend that, then run it again.\n")
        return _EXIT_FAULT
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{program}: stopped. What was finished is kept: the same command goes on from there.\n")
        return _EXIT_STOPPED
    return 0


def _parser(command: Command, program: str) -> ArgumentParser:
    text = _docstring(command)
    parser = _OneLineParser(prog=program, allow_abbrev=False, description=text.split("\nArgs:")[0].strip())
    parser.add_argument("--config", action=ActionConfigFile, help="A YAML file of options, such as a run's config.yaml.")
    names: set[str | int] = set(inspect.signature(command).parameters)
    parser.add_function_arguments(command, as_group=False, as_positional=True, skip=names & {_RESULT})
    if _RESULT in names:  # where the result goes is always said by name, required or not
        parser.add_function_arguments(command, as_group=False, skip=names - {_RESULT})
    return parser


def _overview(commands: Mapping[str, Command | Group], description: str, program: str) -> str:
    width = max(len(name) for name in commands)
    lines = [f"  {name:<{width}}  {_first_line(chosen)}" for name, chosen in commands.items()]
    usage = f"usage: {program} COMMAND [arguments] [--option VALUE …]"
    closing = f"{program} COMMAND --help explains a command; every option can come from --config FILE.yaml."
    return "\n".join([usage, "", description, "", "commands:", *lines, "", closing, ""])


def _first_line(chosen: Command | Group) -> str:
    return _of_group(chosen) if isinstance(chosen, Mapping) else _docstring(chosen).splitlines()[0]


def _of_group(group: Group) -> str:
    """What a group is about: the first line of the module that its commands stand in."""
    module = inspect.getmodule(next(iter(group.values())))
    return (inspect.getdoc(module) or "").partition("\n")[0]


def _docstring(command: Command) -> str:
    return inspect.getdoc(command) or ""
