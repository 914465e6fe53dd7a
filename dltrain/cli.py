"""The command line: verbs, Hydra around training, messages and exit codes. Imports no torch before it trains."""

import io
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from dltrain import __version__
from dltrain.commands.completion import asks_for_completion, complete
from dltrain.commands.help import asks_for_help, help_text
from dltrain.commands.verbs import VERBS
from dltrain.errors import SIGNALLED, UserError, did_you_mean, exit_code_of, quoted
from dltrain.system import answer, signals, worker
from dltrain.system.answer import stdout_reserved
from dltrain.system.machine import die_with_parent, shorten_spin
from dltrain.system.process import leave, process_restored
from dltrain.system.streams import on_any_streams

_SHARED = (None, "resume", "evaluate", "predict")  # verbs that several processes do together; training has none


def main(argv: list[str] | None = None) -> int:
    """Run ``dltrain`` with ``argv`` (default: the process's own arguments); returns the exit code.

    The process is left as it was: its arguments, import path, environment, log and signal handlers, and Hydra. One of
    several that share a run ends here if the arguments are its own.
    """
    code = _on_streams(argv)
    if argv is None and worker.is_worker():
        leave(code)
    return code


@on_any_streams
def _on_streams(argv: list[str] | None) -> int:
    with process_restored():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    shorten_spin()
    if worker.is_launched_by_dltrain():
        die_with_parent(signal.SIGTERM, int(os.environ[worker.LAUNCHER]))
    if worker.rank() > 0:
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
    """The exit code, and what has ended the command with it, which is said on stderr."""
    try:
        with signals.handled():
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
    """``error`` in dltrain's words; without Hydra there is none of its own to explain."""
    if "hydra" not in sys.modules:
        return error
    from dltrain.config.translate import explained

    return explained(error)


def _release_others(arguments: Sequence[str]) -> None:
    """Let the other processes go where they wait for a run that has not come about."""
    if worker.size() > 1 and _verb(arguments) in _SHARED:
        from dltrain.distributed.rendezvous import rendezvous

        rendezvous().publish_no_plan()


def follow(arguments: Sequence[str]) -> int:
    """Do what rank 0 of the same run does with ``arguments``, silently; returns the exit code.

    What goes wrong is told to rank 0, and stands in this process's log.
    """
    verb = _verb(arguments)
    if verb not in _SHARED:
        return 0
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        with signals.handled() as stop:
            from dltrain.distributed.rendezvous import rendezvous, reporting

            with reporting(rendezvous()):
                if verb in ("evaluate", "predict"):
                    VERBS[verb](arguments[1:])
                else:
                    from dltrain.trained.train import follow as follow_training

                    follow_training(stop)
            rendezvous().leave()
    except BaseException as error:
        logging.getLogger(__name__).error("this process has ended", exc_info=error)
        return exit_code_of(error)
    return 0


def _verb(arguments: Sequence[str]) -> str | None:
    """``None`` for training, which has none."""
    return arguments[0] if arguments and arguments[0] in VERBS else None


def _dispatch(arguments: list[str]) -> int:
    """Do what ``arguments`` ask for; returns 1 where jobs of a sweep are not done, each of which has been told."""
    if arguments[:1] == ["--version"]:
        print(f"dltrain {__version__}")
    elif asks_for_help(arguments):
        print(help_text(arguments))
    elif asks_for_completion(arguments):
        answer.give()  # whatever stands on stdout is offered or run by the shell
        complete(arguments, _completed_by_hydra)
    else:
        _require_working_directory()
        return _execute(arguments)
    return 0


def _require_working_directory() -> None:
    """Without one relative paths mean nothing, and torch cannot be loaded."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError("the working directory was deleted; go to one that is there: cd FOLDER") from error


def _execute(arguments: list[str]) -> int:
    """Run the verb that comes first, or train; as :func:`_dispatch`."""
    if arguments and arguments[0] in VERBS:
        VERBS[arguments[0]](arguments[1:])
    elif arguments and re.fullmatch(r"[a-z]\w*", arguments[0]):
        hint = did_you_mean(arguments[0], VERBS) or "."
        verbs = f"Verbs: {', '.join(VERBS)}; training takes none, dltrain key=value ... (dltrain --help)"
        raise UserError(f"there is no verb '{arguments[0]}'{hint} {verbs}")
    else:
        return _train([*arguments, *_after_restart()])
    return 0


@contextmanager
def _composed(arguments: Sequence[str], each_job: bool = False) -> Iterator[tuple[Any, Any] | None]:
    """What ``arguments`` ask for, checked, and what composed it; ``None`` where Hydra has shown what was to be seen.

    Within, Hydra is as a run needs it. Of a sweep ``each_job`` must be in order, and not only some.
    """
    from dltrain.config.compose import Composer, show
    from dltrain.config.flags import parse_flags
    from dltrain.config.session import hydra_session

    with hydra_session():
        flags = parse_flags(arguments)
        if flags.shows:
            show(flags)
            yield None
            return
        composer = Composer(flags)
        with stdout_reserved():  # the check imports classes of the user's
            cfg = composer(each_job)
        yield composer, cfg


def _train(arguments: Sequence[str]) -> int:
    """``dltrain [overrides]``: a run, a sweep, or what flags of Hydra's ask to see; as :func:`_dispatch`."""
    with _composed(arguments) as composed:
        if composed is None:
            return 0
        composer, cfg = composed
        if composer.flags.sweeps:
            if worker.is_worker():
                raise UserError("a sweep starts its own processes: dltrain -m trainer.devices=N, without torchrun")
            from dltrain.sweep.start import run_sweep

            return int(not run_sweep(composer, cfg, shlex.join(["dltrain", *arguments])))
        from dltrain.config.session import context_of
        from dltrain.trained.launch.job import run_alone

        run_alone(context_of(cfg, composer.loader), cfg, arguments)
    return 0


def check(arguments: Sequence[str]) -> None:
    """``dltrain check``: composes as for a run or a sweep, of which each job must be in order, and looks at it."""
    with _composed(arguments, each_job=True) as composed:
        if composed is None:
            return
        composer, cfg = composed
        if composer.flags.sweeps:
            from dltrain.commands.jobs import list_jobs

            list_jobs(composer.jobs())
        else:
            from dltrain.commands.check import check as check_run
            from dltrain.config.session import output_folder, without_hydra

            check_run(without_hydra(cfg), output_folder(cfg))


def _completed_by_hydra(arguments: Sequence[str]) -> str:
    """What Hydra has to offer for the line; where it is wrong as far as it goes this is nothing, without a message."""
    offered = io.StringIO()
    try:
        with redirect_stdout(offered):
            _train(arguments)
    except Exception as error:
        if not isinstance(_explained(error), UserError):
            raise
    return offered.getvalue()


def _after_restart() -> list[str]:
    """What has the run go on where it was when the launcher had to start all of its processes anew."""
    if not worker.restarts():
        return []
    from dltrain.distributed.rendezvous import folder_before_restart

    folder = folder_before_restart()
    return [f"hydra.run.dir={quoted(folder)}", "resume=auto"] if folder else []
