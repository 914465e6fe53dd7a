"""The command line: verbs, Hydra around training, messages and exit codes. Imports no torch before it trains."""

import os
import re
import shlex
import sys
import traceback
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from typing import Any

from dltrain import __version__
from dltrain.errors import DltrainError, Interrupted, UserError, did_you_mean

_INTERRUPTED = 130
# What the first argument may be, instead of an override; imported when it is called.
_VERBS = {
    "list": "dltrain.commands.list:list_options",
    "cache": "dltrain.commands.cache:cache",
}


def main(argv: list[str] | None = None) -> int:
    """Run ``dltrain`` with ``argv`` (default: the process's own arguments); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["--version"]:
            print(f"dltrain {__version__}")
        elif arguments and arguments[0] in _VERBS:
            module, function = _VERBS[arguments[0]].split(":")
            getattr(import_module(module), function)(arguments[1:])
        elif arguments and re.fullmatch(r"[a-z]\w*", arguments[0]):
            hint = did_you_mean(arguments[0], _VERBS) or "."
            raise UserError(
                f"there is no verb '{arguments[0]}'{hint} Verbs: {', '.join(_VERBS)}; a key takes key=value"
            )
        else:
            _hydra(arguments)
        sys.stdout.flush()
    except SystemExit as leave:  # argparse, Hydra's own flags, or a job that has reported its error
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BrokenPipeError:  # `dltrain list | head`: nobody reads on, and flushing at exit must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseException as error:
        return report_error(error)
    return 0


def report_error(error: BaseException) -> int:
    """Print one message for what the user can mend, a traceback for a bug; returns the exit code."""
    if isinstance(error, KeyboardInterrupt | Interrupted):
        print("dltrain: interrupted", file=sys.stderr)
        return error.exit_code if isinstance(error, Interrupted) else _INTERRUPTED
    if isinstance(error, DltrainError):
        print(f"dltrain: {error}", file=sys.stderr)
        return error.exit_code
    if _is_composition_error(error):
        cause = error.__cause__ or error.__context__
        details = f"\n{cause}" if cause and str(cause) not in str(error) and _is_composition_error(cause) else ""
        print(f"dltrain: {error}{details}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    return 1


def _is_composition_error(error: BaseException) -> bool:
    """Whether Hydra, OmegaConf or YAML could not make a configuration of what the user wrote."""
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    kinds = (HydraException, OmegaConfBaseException, YAMLError)
    return isinstance(error, kinds) and not isinstance(error, InstantiationException)


def _hydra(arguments: list[str]) -> None:
    """Hand ``arguments`` to Hydra, which composes the configuration and calls :func:`_job` with it."""
    import hydra
    from omegaconf import OmegaConf

    # Two runs never share a folder, however close they start. Cached: one value for a whole sweep.
    OmegaConf.register_new_resolver("dltrain_unique", lambda: token_hex(4), use_cache=True, replace=True)
    # Hydra would print errors its own way and exit with 1; this makes it hand them on.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["dltrain", *arguments]
    # Classes of the working directory can be named as a _target_ without installing them.
    sys.path.insert(0, os.getcwd())
    try:
        hydra.main(version_base=None, config_path="pkg://dltrain.conf", config_name="config")(_job)()
    except BrokenPipeError:
        raise
    except OSError as error:  # a job reports its own errors, so this comes from making its folder
        raise UserError(f"the run folder cannot be made: {error}; name another one with hydra.run.dir=...") from error


def _job(cfg: Any) -> float:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from dltrain import config

    job = HydraConfig.get()
    single = job.mode == RunMode.RUN
    command = shlex.join(["dltrain", *(sys.argv[1:] if single else job.overrides.task)])
    path = Path(job.runtime.output_dir)
    try:
        try:
            config.check(cfg)
        except DltrainError:
            from dltrain.run import RunFolder

            RunFolder(path, command).discard()
            raise
        from dltrain.commands.train import train

        return train(cfg, path, command)
    except BaseException as error:
        # Hydra catches exceptions, adds lines of its own and goes on with the sweep; SystemExit passes.
        sys.exit(report_error(error))
