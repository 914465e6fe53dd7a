"""``dltrain [overrides]`` and ``dltrain check``: compose a run or a sweep, then run or try it.

No torch is imported before the configuration is in order.
"""

import shlex
from collections.abc import Sequence

from dltrain.config import sweeps
from dltrain.config.command_line import Flags, parse_flags
from dltrain.config.compose import Composer, show
from dltrain.config.session import context_of, hydra_session, output_folder, without_hydra
from dltrain.errors import UserError, quoted
from dltrain.system import process
from dltrain.system.answer import on_terminal, print_json, say


class Request:
    """A run or a sweep as ``arguments`` ask for it, composed and checked; made and used within Hydra's session.

    Of a sweep ``each_job`` must be in order, and not only some.

    Raises:
        ConfigError: every problem of the configuration.
    """

    def __init__(self, flags: Flags, arguments: Sequence[str], each_job: bool = False):
        self.arguments = arguments
        self.composer = Composer(flags)
        self.cfg = self.composer(each_job)

    def run(self) -> int:
        """Train; returns 1 where jobs of a sweep are not done, each of which has been reported, else 0."""
        if not self.composer.flags.sweeps:
            from dltrain.trained.launch.job import run_alone

            run_alone(context_of(self.cfg, self.composer.loader), self.cfg, self.arguments)
            return 0
        if process.is_worker():
            raise UserError("a sweep starts its own processes: dltrain -m trainer.devices=N, without torchrun")
        from dltrain.sweep.start import run_sweep

        return int(not run_sweep(self.composer, self.cfg, shlex.join(["dltrain", *self.arguments])))

    def check(self) -> None:
        """Try a run, and print what it would take; or list the jobs of a sweep."""
        if self.composer.flags.sweeps:
            _list_jobs(self.composer.jobs())
            return
        from dltrain.commands.check import check as check_run

        check_run(without_hydra(self.cfg), output_folder(self.cfg))


def train(arguments: Sequence[str]) -> int:
    """Run, sweep, or print what flags of Hydra's ask for; returns the exit code."""
    arguments = [*arguments, *_after_restart()]
    with hydra_session():
        flags = parse_flags(arguments)
        if not flags.shows:
            return Request(flags, arguments).run()
        show(flags)
    return 0


def check(arguments: Sequence[str]) -> None:
    """Check the run or each job of the sweep that :func:`train` would start with these arguments."""
    with hydra_session():
        flags = parse_flags(arguments)
        if flags.shows:
            show(flags)
        else:
            Request(flags, arguments, each_job=True).check()


def follow(arguments: Sequence[str]) -> None:
    """Take part in a run that rank 0 trains or resumes; rank 0 sends the configuration."""
    from dltrain.trained.train import follow as follow_training

    with process.signals_handled() as stop:
        follow_training(stop)


def _after_restart() -> list[str]:
    """Return the overrides that resume the run where the launcher has started its processes anew."""
    if not process.restarts():
        return []
    from dltrain.distributed.rendezvous import folder_before_restart

    folder = folder_before_restart()
    return [f"hydra.run.dir={quoted(folder)}", "resume=auto"] if folder else []


def _list_jobs(jobs: Sequence[Sequence[str]]) -> None:
    """Print the jobs of a sweep, of which the first were checked."""
    if not on_terminal():
        listed = [{"job": number, "overrides": job} for number, job in enumerate(jobs)]
        print_json({"status": "ok", "count": len(jobs), "checked": min(sweeps.TRIED, len(jobs)), "jobs": listed})
        return
    for number, job in enumerate(jobs):
        say(f"{number:>4}  {' '.join(job)}")
    which = "each" if len(jobs) <= sweeps.TRIED else f"the first {sweeps.TRIED}, and each value in one of them,"
    say(f"{len(jobs)} jobs, {which} with a configuration that is in order")
