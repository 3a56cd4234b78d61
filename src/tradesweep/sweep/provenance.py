"""What a run record must say beside its spec: code, libraries, machine."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

LIBRARIES = (
    "tradesweep",
    "ray",
    "torch",
    "numpy",
    "gymnasium",
    "optuna",
    "pandas",
    "sqlalchemy",
    "mlflow",
    "TA-Lib",
)


def git_revision(root: Path) -> str | None:
    """The commit of the folder the spec stands in, `-dirty` when it differs from it; None outside git."""
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return None
    return f"{head}-dirty" if _git(root, "status", "--porcelain") else head


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def library_versions() -> dict[str, str]:
    """Versions of everything a number can depend on."""
    return {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
