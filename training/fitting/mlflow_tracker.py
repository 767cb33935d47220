"""Tells MLflow: a run in an experiment, its settings as parameters, and a metric per epoch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from training.fitting.progress import Epoch
from training.fitting.tracking import TrackerError

PATIENCE: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""MLflow's own defaults keep trying for minutes, and report its use to its makers; what the operator set stays."""


class MlflowTracker:
    """One run of an experiment, which is made where it is not there."""

    def __init__(self, uri: str, experiment: str, run: str, settings: Mapping[str, Any]) -> None:
        self._uri = uri
        with self._told():
            for name, value in PATIENCE.items():
                os.environ.setdefault(name, value)
            from mlflow.entities import Param
            from mlflow.tracking import MlflowClient

            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
            self._run_id = self._client.create_run(experiment_id, run_name=run).info.run_id
            self._client.log_batch(self._run_id, params=[Param(name, str(value)) for name, value in settings.items()])

    def epoch(self, phase: str, epoch: Epoch) -> None:
        with self._told():
            from mlflow.entities import Metric

            now_ms = int(time.time() * 1000)
            measured = epoch.measured().items()
            self._client.log_batch(
                self._run_id,
                metrics=[Metric(f"{phase}/{name}", value, now_ms, epoch.epoch) for name, value in measured],
            )

    def end(self, *, succeeded: bool) -> None:
        with self._told():
            self._client.set_terminated(self._run_id, status="FINISHED" if succeeded else "FAILED")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ModuleNotFoundError as error:
            raise TrackerError(f"it needs {error.name}: pip install 'longtail[mlflow]'") from error
        except Exception as error:  # whatever a library raises must not stop a run
            why = f"{type(error).__name__}: {error}".splitlines()[0].replace(self._uri, "the tracking server")
            raise TrackerError(f"{why}; see training.mlflow_tracking_uri") from error
