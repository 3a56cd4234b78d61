"""Schema migrations, run from code: `upgrade(connection)` brings a database to `HEAD`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

HEAD = "0003"
"""The schema this code reads and writes."""

REVISIONS = ("0001", "0002", "0003")
"""Every schema there ever was, oldest first. Kept here so that reading a database needs no Alembic."""


def upgrade(connection: Connection) -> None:
    """Run what is missing, inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
