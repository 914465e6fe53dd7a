"""The command line: verbs, messages and exit codes. Imports no torch before it trains."""

import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from dltrain import __version__
from dltrain.commands.completion import asks_for_completion, complete
from dltrain.commands.help import asks_for_help, help_text
from dltrain.commands.verbs import TRAIN, VERBS, verb_of
from dltrain.errors import SIGNALLED, UserError, did_you_mean, exit_code_of
from dltrain.report.metrics import declared_metrics_restored
from dltrain.system import answer, process
from dltrain.system.log import on_any_streams
from dltrain.system.machine import die_with_parent, shorten_spin
from dltrain.system.process import leave, process_restored


def main(argv: list[str] | None = None) -> int:
    """Run ``dltrain`` with ``argv`` (default: the arguments of the process); returns the exit code.

    The process is left as it was: its arguments, import path, environment, log and signal handlers, and Hydra.
    """
    return _on_streams(argv)


def command() -> NoReturn:
    """Run ``dltrain`` as a process of its own, which ends with the exit code."""
    code = main()
    if process.is_worker() or "torch" not in sys.modules:  # to take the interpreter apart takes long
        leave(code)
    sys.exit(code)


@on_any_streams
def _on_streams(argv: list[str] | None) -> int:
    with process_restored(), declared_metrics_restored():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    shorten_spin()
    if process.is_launched_by_dltrain():
        die_with_parent(signal.SIGTERM, int(os.environ[process.LAUNCHER]))
    if process.rank() > 0:
        return follow(arguments)
    code = _run(arguments)
    if code <= SIGNALLED:  # else the launcher tells the others, and torch may be half imported
        _release_others(arguments)
    return code


def _run(arguments: list[str]) -> int:
    answer.begin()
    code, cause = _tried(arguments)
    if code:
        answer.answer_ending(code, cause)
    return code


def _tried(arguments: list[str]) -> tuple[int, BaseException | None]:
    """Run the command; returns the exit code and the error behind it, which is reported on stderr."""
    try:
        with process.signals_handled():
            code = _dispatch(arguments)
            sys.stdout.flush()
    except BrokenPipeError as error:  # `dltrain list | head`: nobody reads on, and the flush at exit must not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, error
    except BaseException as error:
        cause = _explained(error)
        return answer.report(cause), None if answer.is_reported(cause) else cause
    return code, None


def _explained(error: BaseException) -> BaseException:
    """Put an error of Hydra's in dltrain's words; returns others as they are."""
    if "hydra" not in sys.modules:
        return error
    from dltrain.config.translate import explained

    return explained(error)


def _release_others(arguments: Sequence[str]) -> None:
    """Let the other processes end where they wait for a run that did not begin."""
    if process.size() > 1 and verb_of(arguments)[0].shared:
        from dltrain.distributed.rendezvous import rendezvous

        rendezvous().publish_no_plan()


def follow(arguments: Sequence[str]) -> int:
    """Do what rank 0 of the same run does with ``arguments``, silently; returns the exit code.

    What goes wrong is reported to rank 0, and is in this process's log.
    """
    verb, words = verb_of(arguments)
    if not verb.shared:
        return 0
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        with process.signals_handled():
            from dltrain.distributed.rendezvous import rendezvous, reporting

            with reporting(rendezvous()):
                verb.follow(words)
            rendezvous().leave()
    except BaseException as error:
        logging.getLogger(__name__).error("this process has ended", exc_info=error)
        return exit_code_of(error)
    return 0


def _dispatch(arguments: list[str]) -> int:
    """Do what ``arguments`` ask for; returns 1 where jobs of a sweep failed, which has been reported, else 0."""
    if arguments[:1] == ["--version"]:
        print(f"dltrain {__version__}")
    elif asks_for_help(arguments):
        print(help_text(arguments))
    elif asks_for_completion(arguments):
        answer.give()  # whatever stands on stdout is offered or run by the shell
        complete(arguments)
    else:
        _require_working_directory()
        return _execute(arguments)
    return 0


def _require_working_directory() -> None:
    """Refuse to run in a folder that was deleted: relative paths mean nothing there, and torch cannot be imported."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError("the working directory was deleted; go to another: cd FOLDER") from error


def _execute(arguments: list[str]) -> int:
    """Run the verb that comes first, or train; returns as :func:`_dispatch`."""
    verb, words = verb_of(arguments)
    if verb is TRAIN and words and re.fullmatch(r"[a-z]\w*", words[0]):
        hint = did_you_mean(words[0], VERBS) or "."
        verbs = f"Verbs: {', '.join(VERBS)}; training takes none, dltrain key=value ... (dltrain --help)"
        raise UserError(f"there is no verb '{words[0]}'{hint} {verbs}")
    return verb(words)
