"""The command line: verbs, Hydra around training, messages and exit codes. Imports no torch before it trains."""

import io
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from secrets import token_hex
from typing import Any

from dltrain import __version__, answer, distributed, signals
from dltrain.answer import stdout_kept
from dltrain.completion import asks_for_completion, complete
from dltrain.errors import (
    SIGNALLED,
    ConfigError,
    DltrainError,
    Interrupted,
    UserError,
    did_you_mean,
    exit_code_of,
    quoted,
)
from dltrain.help import asks_for_help, help_text
from dltrain.machine import die_with_parent, shorten_spin
from dltrain.process import leave, process_kept
from dltrain.streams import on_any_streams, printable
from dltrain.verbs import VERBS

_SHARED = (None, "resume", "evaluate", "predict")  # verbs that several processes do together; training has none


def main(argv: list[str] | None = None) -> int:
    """Run ``dltrain`` with ``argv`` (default: the process's own arguments); returns the exit code.

    The process is left as it was: its arguments, import path, environment, log and signal handlers, and Hydra. One of
    several that share a run ends here if the arguments are its own.
    """
    code = _on_streams(argv)
    if argv is None and distributed.is_worker():
        leave(code)
    return code


@on_any_streams
def _on_streams(argv: list[str] | None) -> int:
    with process_kept():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    shorten_spin()
    if distributed.is_launched_by_dltrain():
        die_with_parent(signal.SIGTERM, int(os.environ[distributed.LAUNCHER]))
    if distributed.rank() > 0:
        return follow(arguments)
    code = _run(arguments)
    if code <= SIGNALLED:  # else the launcher tells the others, and torch may be half imported
        _release_others(arguments)
    return code


def _run(arguments: list[str]) -> int:
    answer.begin()
    code, cause = _tried(arguments)
    if code:
        answer.say_how_it_ended(code, _explained(cause) if cause else None)
    return code


def _tried(arguments: list[str]) -> tuple[int, BaseException | None]:
    """The exit code, and what has ended the command with it, which is said on stderr."""
    try:
        with signals.handled():
            _dispatch(arguments)
            sys.stdout.flush()
    except SystemExit as leave:  # a flag of Hydra's, or a job that has reported its error
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None), leave.__context__
    except BrokenPipeError as error:  # `dltrain list | head`: nobody reads on, and the flush at exit must not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, error
    except BaseException as error:
        return report_error(error), error
    return 0, None


def _release_others(arguments: Sequence[str]) -> None:
    """Let the other processes go where they wait for a run that has not come about."""
    if distributed.size() > 1 and _verb(arguments) in _SHARED:
        from dltrain.distributed.meeting import meeting

        meeting().announce_nothing()


def follow(arguments: Sequence[str]) -> int:
    """Do what rank 0 of the same run does with ``arguments``, silently; returns the exit code.

    What goes wrong is told to rank 0, and stands in this process's log.
    """
    verb = _verb(arguments)
    if verb not in _SHARED:
        return 0
    import logging

    logging.getLogger().addHandler(logging.NullHandler())
    try:
        with signals.handled() as stop:
            from dltrain.distributed.meeting import meeting, reporting

            with reporting(meeting()):
                if verb in ("evaluate", "predict"):
                    VERBS[verb](arguments[1:])
                else:
                    from dltrain.commands.train import follow as follow_training

                    follow_training(stop)
            meeting().leave()
    except BaseException as error:
        logging.getLogger(__name__).error("this process has ended", exc_info=error)
        return exit_code_of(error)
    return 0


def _verb(arguments: Sequence[str]) -> str | None:
    """``None`` for training, which has none."""
    return arguments[0] if arguments and arguments[0] in VERBS else None


def _dispatch(arguments: list[str]) -> None:
    if arguments[:1] == ["--version"]:
        print(f"dltrain {__version__}")
    elif asks_for_help(arguments):
        print(help_text(arguments))
    elif asks_for_completion(arguments):
        answer.give()  # whatever stands on stdout is offered or run by the shell
        complete(arguments, _completed_by_hydra)
    else:
        _require_working_directory()
        _execute(arguments)


def _require_working_directory() -> None:
    """Without one relative paths mean nothing, and torch cannot be loaded."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError("the working directory was deleted; go to one that is there: cd FOLDER") from error


def _execute(arguments: list[str]) -> None:
    """Run the verb that comes first, or train."""
    if arguments and arguments[0] in VERBS:
        VERBS[arguments[0]](arguments[1:])
    elif arguments and re.fullmatch(r"[a-z]\w*", arguments[0]):
        hint = did_you_mean(arguments[0], VERBS) or "."
        verbs = f"Verbs: {', '.join(VERBS)}; training takes none, dltrain key=value ... (dltrain --help)"
        raise UserError(f"there is no verb '{arguments[0]}'{hint} {verbs}")
    else:
        _hydra([*arguments, *_after_restart()])


def _completed_by_hydra(arguments: Sequence[str]) -> str:
    """What Hydra has to offer for the line; where it is wrong as far as it goes this is nothing, without a message."""
    found = io.StringIO()
    try:
        with redirect_stdout(found):
            _hydra(arguments)
    except Exception as error:
        if not isinstance(_explained(error), UserError):
            raise
    return found.getvalue()


def _after_restart() -> list[str]:
    """What has the run go on where it was when the launcher had to start all of its processes anew."""
    if not distributed.restarts():
        return []
    from dltrain.distributed.meeting import earlier_folder

    folder = earlier_folder()
    return [f"hydra.run.dir={quoted(folder)}", "resume=auto"] if folder else []


def check(arguments: Sequence[str]) -> None:
    """``dltrain check``: Hydra composes as for a run, and calls what only looks at the result in its place."""
    _hydra(arguments, ["+hydra.callbacks.dltrain_check._target_=dltrain.config.rehearsal.Rehearsal"], each_job=True)


def report_error(error: BaseException) -> int:
    """Print one message for what the user can mend, a traceback for a bug; returns the exit code."""
    error = _explained(error)
    if isinstance(error, KeyboardInterrupt | Interrupted):
        return _say("interrupted", exit_code_of(error))
    if isinstance(error, DltrainError):
        return _say(str(error), exit_code_of(error))
    traceback.print_exception(error)
    distributed.leave_error(f"a bug: {''.join(traceback.format_exception_only(error)).strip()}")
    return 1


def _explained(error: BaseException) -> BaseException:
    """``error``, or what it says of the configuration in dltrain's words."""
    if "hydra" in sys.modules:
        from dltrain.config.translate import is_composition_error, translated

        if is_composition_error(error):
            return ConfigError(translated(error))
    return error


def _say(text: str, code: int) -> int:
    print(f"dltrain: {printable(text)}", file=sys.stderr, flush=True)
    distributed.leave_error(text)  # once it is said: the launcher says what has not been
    return code


def _hydra(arguments: Sequence[str], extra: Sequence[str] = (), each_job: bool = False) -> None:
    """Check the configuration, then hand ``arguments`` to Hydra, which composes it and calls :func:`_job` with it.

    ``each_job``: of a sweep must be in order, and not only some.
    """
    from dltrain.config.hydra_state import hydra_state_kept

    # Hydra would print errors its own way and exit with 1; this makes it hand them on.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Classes of the working directory can be named as a _target_ without installing them.
    sys.path.insert(0, os.getcwd())
    with hydra_state_kept():
        _call_hydra(arguments, extra, each_job)


def _call_hydra(arguments: Sequence[str], extra: Sequence[str], each_job: bool) -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from dltrain.config.command import check_command
    from dltrain.config.command_line import for_hydra
    from dltrain.config.flags import parse_flags
    from dltrain.config.plugins import prefer_ours

    if odd := [word for word in arguments if re.search("[\ud800-\udfff]", word)]:
        raise UserError(f"{odd[0]!a} is no UTF-8 text, which a configuration must be: rename what it names")
    # Two runs never share a folder, however close they start. Cached: one value for a whole sweep.
    OmegaConf.register_new_resolver("dltrain_unique", lambda: token_hex(4), use_cache=True, replace=True)
    prefer_ours()
    given = for_hydra(arguments)
    flags = parse_flags(given)
    shows = flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion
    if not shows:
        with stdout_kept():  # it imports classes of the user's
            check_command(given, each_job)
    if flags.multirun or "hydra.mode=MULTIRUN" in flags.overrides:
        if distributed.is_worker():
            raise UserError("a sweep starts its own processes: dltrain -m trainer.devices=N, without torchrun")
        from dltrain.sweep.launcher import register

        register(shlex.join(["dltrain", *arguments]))
        extra = [*extra, "+hydra.callbacks.dltrain_sweep._target_=dltrain.sweep.finish.Finish"]
    sys.argv = ["dltrain", *given, *extra]

    def job(cfg: Any, pruning: Any = None) -> float:  # our launcher hands over what may end a job of its sweep
        return _job(cfg, arguments, pruning)

    try:
        hydra.main(version_base=None, config_path="pkg://dltrain.conf", config_name="config")(job)()
    except SystemExit as leave:
        if flags.cfg and leave.code == 1:
            raise UserError(f"--package={flags.package}: dltrain --cfg {flags.cfg} shows what there is") from leave
        raise
    except BrokenPipeError:
        raise
    except Exception as error:  # a job reports its own errors, so this comes from composing or from making its folder
        if shows:
            check_command(given)
        if isinstance(error, OSError) and not isinstance(error, HydraException):
            raise UserError(f"the run folder cannot be made: {error}; name another with hydra.run.dir=...") from error
        raise


def _job(cfg: Any, arguments: Sequence[str], pruning: Any) -> float:
    import logging

    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from dltrain import config
    from dltrain.config.command_line import split, without_sweep
    from dltrain.distributed import launch
    from dltrain.run import discarded_unless_begun

    job = HydraConfig.get()
    single = job.mode == RunMode.RUN
    alone = arguments if single else [*without_sweep(split(arguments)[0]), *job.overrides.task]
    path = Path(job.runtime.output_dir)
    command = launch.command_of(alone)
    if job.job.chdir:  # Hydra has gone to the run folder, where no relative path of the user's leads anywhere
        os.chdir(job.runtime.cwd)
        if not distributed.is_worker():  # whoever has started it has said so
            logging.getLogger(__name__).warning(
                "hydra.job.chdir=true has no effect: relative paths mean the directory where the command was typed, %s",
                job.runtime.cwd,
            )
    try:
        with ExitStack() as stack:
            stop = stack.enter_context(signals.handled())
            stack.enter_context(discarded_unless_begun(path, command))
            stack.enter_context(stdout_kept())
            if not single:
                stack.enter_context(answer.unheard())
                # A single run was checked before its folder was made; here keys of a sweep come together.
                config.check(cfg)
            if cfg.trainer.devices != 1 and not distributed.is_worker():
                goes_on = ["resume=auto"] if not single and cfg.resume == "auto" else []  # set by our launcher
                return launch.run_together([*alone, *goes_on], cfg, path)
            from dltrain.commands.train import train  # imports torch: time enough for a signal

            return train(cfg, path, command, stop, pruning)
    except SystemExit:  # other processes have run it, and said how it ended
        raise
    except BaseException as error:
        # Hydra catches exceptions, adds lines of its own and goes on with the sweep; SystemExit passes.
        sys.exit(report_error(error))
