"""``dltrain check -m [overrides]``: the jobs of a sweep, without running them. Imports no torch."""

import json
import sys
from collections.abc import Sequence


def list_jobs(jobs: Sequence[Sequence[str]], tried: int) -> None:
    """Print the jobs of a sweep; the configurations of the first ``tried`` are in order."""
    if not sys.stdout.isatty():
        listed = [{"job": number, "overrides": job} for number, job in enumerate(jobs)]
        print(
            json.dumps({"status": "ok", "count": len(jobs), "checked": min(tried, len(jobs)), "jobs": listed}),
            flush=True,
        )
        return
    for number, job in enumerate(jobs):
        print(f"{number:>4}  {' '.join(job)}")
    which = "each" if len(jobs) <= tried else f"the first {tried}, and each value in one of them,"
    print(f"{len(jobs)} jobs, {which} with a configuration that is in order")
