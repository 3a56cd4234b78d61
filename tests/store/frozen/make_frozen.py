"""Freeze a database of the schema of the installed code: a real sweep of two small PPO trials, compressed.

python tests/store/frozen/make_frozen.py
"""

from __future__ import annotations

import gzip
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

EXPERIMENTS = """
version: 1
experiments:
  frozen:
    sweep: frozen
    market: {source: synthetic, name: planted, periods_per_year: 252, params: {bars: 900, rho: 0.5, q: 0.2, seed: 7}}
    features:
      - csv_columns: {names: [signal]}
    splits: {train: 500, validation: 200, test: 200}
    env: {fill: next_open, episode_bars: 60, fee_bps: 3, slippage_bps: 2}
    evaluation: {count: 8, min_trades: 5, patience: null}
    budget: {trials: 2, env_steps_per_trial: 1024}
    resources: {lanes: 4}
"""
SWEEP = """
algorithm: ppo
fixed: {train_batch_size_per_learner: 128, minibatch_size: 64, num_epochs: 1, model: {hiddens: [8]}}
search:
  lr: {loguniform: [1e-3, 3e-3]}
"""
HIDDEN = {"TRADESWEEP_HOME", "TRADESWEEP_DB_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run_sweep(root)
        schema, image = read_image(root / "runs" / "tradesweep.db")
    target = Path(__file__).parent / f"schema_{schema}.db.gz"
    target.write_bytes(gzip.compress(image, 9, mtime=0))
    print(f"{target}: {target.stat().st_size:,} bytes")


def run_sweep(root: Path) -> None:
    (root / "sweeps").mkdir()
    (root / "experiments.yaml").write_text(EXPERIMENTS)
    (root / "sweeps" / "frozen.yaml").write_text(SWEEP)
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    subprocess.run([sys.executable, "-m", "tradesweep", "sweep", "frozen"], cwd=root, env=environment, check=True)


def read_image(database: Path) -> tuple[str, bytes]:
    """The schema, and the whole database as one file."""
    with closing(sqlite3.connect(database)) as connection:
        schema = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        connection.execute("VACUUM")
        return schema, connection.serialize()


if __name__ == "__main__":
    main()
