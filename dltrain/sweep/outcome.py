"""What won: the jobs of a sweep in the order of the monitored metric, with means over their seeds. Imports no torch."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from dltrain.metric_names import lower_is_better
from dltrain.sweep.ledger import Job, Ledger, grouped


@dataclass
class Choice:
    """Jobs that differ in their seed alone: the values of the swept keys, and each metric's mean and deviation.

    These are of the jobs that ran to their end; where each was pruned before, of what they had got to.
    """

    settings: dict[str, str]
    jobs: list[Job]
    means: dict[str, float]
    deviations: dict[str, float]  # sample standard deviations; empty of a single job

    @property
    def pruned(self) -> int:
        """How many of the jobs were pruned."""
        return sum(bool(job.pruned) for job in self.jobs)

    def value(self, metric: str) -> float:
        """Of ``metric``, NaN where it is not known."""
        return self.means.get(metric, math.nan)

    def shown(self, metric: str) -> str:
        """``0.9812 ± 0.0012``, or a dash."""
        if metric not in self.means:
            return "–"
        spread = f" ± {self.deviations[metric]:.2g}" if metric in self.deviations else ""
        return f"{self.means[metric]:.4g}{spread}"


@dataclass
class Outcome:
    """A sweep as a whole; ``choices`` the best first, then those with pruned jobs, then those without a result."""

    ledger: Ledger
    monitor: str
    choices: list[Choice]

    @property
    def best(self) -> Job | None:
        """The best job of the best choice."""
        if not self.choices:
            return None
        done = [job for job in _whole(self.choices[0].jobs) if self.monitor in job.metrics]
        sign = 1 if lower_is_better(self.monitor) else -1
        return min(done, key=lambda job: sign * job.metrics[self.monitor], default=None)

    def summary(self) -> dict[str, Any]:
        """What a sweep says on stdout."""
        counts = {status: self.ledger.count(status) for status in ("done", "failed", "interrupted", "running")}
        best = self.best
        total = sum(counts.values())
        order = ("running", "interrupted", "failed")
        status = "done" if counts["done"] == total else next((one for one in order if counts[one]), "failed")
        found: dict[str, Any] = {"status": status, "sweep": str(self.ledger.folder), "jobs": total, **counts}
        found["pruned"] = sum(bool(job.pruned) for job in self.ledger)
        if best is not None:
            first = self.choices[0]
            found["best"] = {
                "job": best.number,
                "run": str(best.folder),
                "settings": first.settings,
                "monitor": self.monitor,
                "seeds": len(first.jobs),
                "mean": first.means,
                "std": first.deviations,
                "command": best.result.get("command", shlex.join(["dltrain", *best.overrides])),
            }
        return found


def outcome(ledger: Ledger) -> Outcome:
    """Rank the jobs by the metric that most of them monitor."""
    jobs = list(ledger)
    monitors = [job.monitor for job in jobs if job.monitor]
    monitor = max(set(monitors), key=monitors.count) if monitors else "val/loss"
    keys = [key for key in ledger.swept() if key != "seed"]
    choices = [_choice(members, keys) for members in grouped(jobs).values()]
    sign = 1 if lower_is_better(monitor) else -1

    def place(choice: Choice) -> tuple[bool, float, float]:
        value = choice.value(monitor)
        # The seeds that a pruner has left over make a choice look better than it is.
        return math.isnan(value), choice.pruned / len(choice.jobs), 0.0 if math.isnan(value) else sign * value

    return Outcome(ledger, monitor, sorted(choices, key=place))


def _choice(jobs: Sequence[Job], keys: Sequence[str]) -> Choice:
    done = _whole(jobs) or [job for job in jobs if job.pruned]
    names = dict.fromkeys(name for job in done for name in job.metrics)
    values = {name: [job.metrics[name] for job in done if job.metrics.get(name) is not None] for name in names}
    return Choice(
        settings={key: jobs[0].settings[key] for key in keys if key in jobs[0].settings},
        jobs=list(jobs),
        means={name: fmean(found) for name, found in values.items() if found},
        deviations={name: stdev(found) for name, found in values.items() if len(found) > 1},
    )


def _whole(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that ran to their end."""
    return [job for job in jobs if job.status == "done" and not job.pruned]
