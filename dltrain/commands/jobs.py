"""``dltrain check -m [overrides]``: the jobs of a sweep, without running them. Imports no torch."""

from collections.abc import Sequence

from dltrain.config import sweeps
from dltrain.system.answer import on_terminal, print_json, say


def list_jobs(jobs: Sequence[Sequence[str]]) -> None:
    """Print the jobs of a sweep, of which the configurations of the first are in order."""
    if not on_terminal():
        listed = [{"job": number, "overrides": job} for number, job in enumerate(jobs)]
        print_json({"status": "ok", "count": len(jobs), "checked": min(sweeps.TRIED, len(jobs)), "jobs": listed})
        return
    for number, job in enumerate(jobs):
        say(f"{number:>4}  {' '.join(job)}")
    which = "each" if len(jobs) <= sweeps.TRIED else f"the first {sweeps.TRIED}, and each value in one of them,"
    say(f"{len(jobs)} jobs, {which} with a configuration that is in order")
