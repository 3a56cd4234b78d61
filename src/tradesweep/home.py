"""Where a user's results live, resolved to absolute paths once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

from tradesweep.errors import BadInput

DB_URL = "TRADESWEEP_DB_URL"
"""The variable that names another database than the file in the home. Its value may hold a password."""

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:@\[\]]*)(:\d*)?")
_SECRET_PARAMETERS = frozenset({"password", "sslpassword", "passfile"})


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """The path of a database file, or the URL of a server's database, which is shown without its password."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        scheme, found, rest = self.url.partition("://")
        if not found or scheme == "sqlite":
            return self.url
        place, _, behind = rest.partition("?")
        login, slash, name = place.partition("/")
        hosts = login.rpartition("@")[2]
        unclear = "@" in name or "@" in behind or not all(map(_HOST.fullmatch, hosts.split(",")))
        if unclear:  # a sign of the password that had to be escaped
            return f"{scheme}://..."
        return f"{scheme}://{hosts or 'localhost'}{slash}{name}"

    def mask(self, text: str) -> str:
        """Replace the URL, and the password it carries in user-info or query, wherever the text quotes them."""
        _, _, rest = self.url.partition("://")
        user_infos = {rest.partition("@")[0], rest.rpartition("@")[0]} if "@" in rest else {rest.partition("/")[0]}
        secrets = {user_info.partition(":")[2] for user_info in user_infos}
        query = parse_qsl(rest.partition("?")[2])
        secrets |= {value for key, value in query if key.lower() in _SECRET_PARAMETERS}
        secrets |= {unquote(secret) for secret in secrets} | {quote(secret, safe="") for secret in secrets}
        secrets -= {""}
        # A URL without a secret stays readable: it is the path of a file.
        for secret in sorted(secrets | {self.url}, key=len, reverse=True) if secrets else ():
            text = text.replace(secret, "***")
        return text


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of all results: `runs/` beside the spec, or TRADESWEEP_HOME."""

    path: Path
    db_url: str | None = field(default=None, repr=False)
    """Another database than the file in the folder."""

    @classmethod
    def from_environment(cls, root: Path) -> Home:
        """TRADESWEEP_HOME if set, else `<root>/runs`; relative paths count from the working directory.

        TRADESWEEP_DB_URL, if set, is the database. Raises BadInput when it is no URL.
        """
        named, url = os.environ.get("TRADESWEEP_HOME"), os.environ.get(DB_URL) or None
        if url is not None and "://" not in url:
            raise BadInput(
                f"{DB_URL} must be a URL such as postgresql://user@host:5432/database, was not (it is not shown, it"
                " may hold a password)"
            )
        return cls((Path(named) if named else root / "runs").absolute(), url)

    @property
    def database(self) -> DatabaseAddress:
        """The store: the truth about every sweep."""
        return DatabaseAddress(self.db_url or str(self.path / "tradesweep.db"))

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
