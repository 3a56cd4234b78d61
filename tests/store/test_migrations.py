"""The migrations make exactly the schema of the models."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from tradesweep.store import migrations
from tradesweep.store.models import Base
from tradesweep.store.sqlite import SqliteDatabase

VIEWS = {
    "training_runs",
    "trade_lineage",
    "trading_operations",
    "effective_iterations",
    "effective_evaluations",
    "effective_checkpoints",
    "effective_episodes",
    "effective_steps",
}


def read_schema(path: Path) -> dict[str, list[str]]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'sqlite_sequence'")
        return {name: normalise(sql) for name, sql in rows}


def normalise(sql: str) -> list[str]:
    """Columns in their order, constraints in any."""
    body, _, end = " ".join(sql.split()).rpartition(")")
    columns, *constraints = re.split(r",? CONSTRAINT ", body)
    return [columns, *sorted(constraint.strip() for constraint in constraints), end]


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    SqliteDatabase(tmp_path / "migrated.db").create()
    return tmp_path / "migrated.db"


def test_the_migrations_give_the_tables_of_the_models(migrated: Path, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'models.db'}")
    Base.metadata.create_all(engine)
    engine.dispose()
    found = {name: sql for name, sql in read_schema(migrated).items() if name not in VIEWS | {"alembic_version"}}
    assert found == read_schema(tmp_path / "models.db")


def test_alembic_sees_no_difference(migrated: Path) -> None:
    engine = SqliteDatabase(migrated).write_engine()
    with engine.connect() as db:
        differences = compare_metadata(MigrationContext.configure(db), Base.metadata)
    engine.dispose()
    assert differences == []


def test_all_views_are_there(migrated: Path) -> None:
    with closing(sqlite3.connect(migrated)) as db:
        assert {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'view'")} == VIEWS
        for view in VIEWS:
            assert db.execute(f"SELECT * FROM {view}").fetchall() == []


def test_every_table_is_strict() -> None:
    for table in Base.metadata.tables.values():
        assert table.dialect_options["sqlite"]["strict"], table.name


def test_the_known_revisions_are_those_of_alembic() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [migrations.HEAD]
    assert tuple(revision.revision for revision in reversed(list(script.walk_revisions()))) == migrations.REVISIONS


def test_every_table_view_and_column_is_in_the_schema_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    for table in Base.metadata.tables.values():
        missing = [column.name for column in table.columns if f"`{column.name}`" not in sections.get(table.name, "")]
        assert missing == [], table.name
    assert [view for view in VIEWS if f"`{view}`" not in page] == []
