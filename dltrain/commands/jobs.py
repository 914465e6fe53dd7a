"""``dltrain check -m [overrides]``: the jobs of a sweep, without running them. Imports no torch."""

import json
import sys
from collections.abc import Sequence


def list_jobs(jobs: Sequence[Sequence[str]]) -> None:
    """Print the jobs of a sweep, whose configurations are in order."""
    if not sys.stdout.isatty():
        listed = [{"job": number, "overrides": job} for number, job in enumerate(jobs)]
        print(json.dumps({"status": "ok", "count": len(jobs), "jobs": listed}), flush=True)
        return
    for number, job in enumerate(jobs):
        print(f"{number:>4}  {' '.join(job)}")
    print(f"{len(jobs)} jobs, each with a configuration that is in order")
