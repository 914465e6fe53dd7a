"""MLflow runs, by default in a local database that ``mlflow ui`` shows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dltrain.loggers import flatten
from dltrain.system.extras import require_extras

_TAG = "dltrain_run"


class MLflowLogger:
    """Logs the configuration as parameters and every metric over epochs; a resumed run goes on with its MLflow run.

    Args:
        experiment: the MLflow experiment, made when there is none of this name.
        tracking_uri: a server, or a local store such as ``sqlite:///mlflow.db``.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        history: Sequence[Mapping[str, float]] = (),
        experiment: str = "dltrain",
        tracking_uri: str = "sqlite:///mlflow.db",
    ):
        require_extras(["mlflow"], "mlflow", "logger=mlflow")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        # The client rather than mlflow.start_run(): which is global to the process, and a process may do several runs.
        self._client = MlflowClient(tracking_uri)
        existing = self._client.get_experiment_by_name(experiment)
        experiment_id = existing.experiment_id if existing else self._client.create_experiment(experiment)
        started = self._client.search_runs([experiment_id], f"tags.{_TAG} = '{folder}'") if history else []
        self._logged = 0  # epochs that are there already: what is logged twice is kept twice
        if started:
            self._run = started[0].info.run_id
            self._client.set_terminated(self._run, "RUNNING")
            self._logged = max(
                (metric.step for metric in self._client.get_metric_history(self._run, "epoch")), default=0
            )
            return
        self._run = self._client.create_run(experiment_id, run_name=folder.name, tags={_TAG: str(folder)}).info.run_id
        parameters = [Param(name, str(value)) for name, value in flatten(config).items()]
        self._client.log_batch(self._run, params=parameters)

    def log(self, row: Mapping[str, float]) -> None:
        if row["epoch"] > self._logged:
            self._log(row, int(row["epoch"]))

    def close(self, result: Mapping[str, float]) -> None:
        self._log(result, 0)
        self._client.set_terminated(self._run, "FINISHED" if result else "FAILED")

    def _log(self, metrics: Mapping[str, float], epoch: int) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._run, name, value, step=epoch)
