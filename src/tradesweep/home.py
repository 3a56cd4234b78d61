"""Where a user's results live, resolved to absolute paths once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tradesweep.errors import BadInput


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of all results: `runs/` beside the spec, or TRADESWEEP_HOME."""

    path: Path

    @classmethod
    def from_environment(cls, root: Path) -> Home:
        """TRADESWEEP_HOME if set, else `<root>/runs`; relative paths count from the working directory.

        Raises BadInput where TRADESWEEP_DB_URL is set: to ignore it would write to another database than asked for.
        """
        if os.environ.get("TRADESWEEP_DB_URL"):
            raise BadInput(
                "TRADESWEEP_DB_URL must be unset: the database is tradesweep.db in the folder of the results, other"
                " databases are not built yet; set TRADESWEEP_HOME to choose the folder"
            )
        named = os.environ.get("TRADESWEEP_HOME")
        return cls((Path(named) if named else root / "runs").absolute())

    @property
    def database(self) -> Path:
        """The store: the truth about every sweep."""
        return self.path / "tradesweep.db"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's own tables: a projection of the store."""
        return self.path / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.path / "artifacts"

    def sweep(self, sweep_id: str) -> Path:
        """One sweep's folder: `spec.json`, `logs/`, `trials/<number>/checkpoints/<iteration>/`."""
        return self.path / "sweeps" / sweep_id

    def checkpoint(self, sweep_id: str, trial_no: int, iteration: int) -> Path:
        """One checkpoint's folder."""
        return self.sweep(sweep_id) / "trials" / f"{trial_no:04d}" / "checkpoints" / f"{iteration:06d}"

    def logs(self, sweep_id: str) -> Path:
        """The driver's and the trials' logs."""
        return self.sweep(sweep_id) / "logs"
