"""PostgreSQL: whose schema it is, who may write, what happens when a connection is lost, what people are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from tradesweep.errors import SchemaMismatch, StoreError, StoreLocked, StoreUnavailable
from tradesweep.names import Answer, Record, SweepStatus
from tradesweep.store import (
    Writer,
    database_exists,
    delete_database,
    open_store,
    upgrade_database,
    verify,
)
from tradesweep.store.database import find_database
from tradesweep.store.maintenance import back_up
from tradesweep.store.models import VIEWS, Base

BACKENDS = ("postgresql",)

HOLD = """
import sys, time
from tradesweep.store import Writer
writer = Writer(sys.stdin.readline().strip())
writer.claim("small-12345678")
print("held", flush=True)
time.sleep(60)
"""


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


def tables_of(url: str) -> list[tuple[Any, ...]]:
    return ask(url, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY relname")


@pytest.fixture
def holder(world: Any) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the sweep."""
    world.writer.close()
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{world.path}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def cut_connection(url: str) -> None:
    """What an administrator, or a network, does to the connections of our writers."""
    ask(
        url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


# --- whose it is ----------------------------------------------------------------------------------------------


def test_an_empty_database_is_filled_and_marked_as_ours(backend: Any) -> None:
    url = backend.place()
    assert not database_exists(url)
    Writer(url).close()
    assert database_exists(url)
    assert upgrade_database(url) is None
    assert {row[0] for row in tables_of(url)} >= {*Base.metadata.tables, *VIEWS, "alembic_version"}


def test_the_migrations_give_the_tables_of_the_models(backend: Any) -> None:
    engine = find_database(backend.empty()).write_engine()
    with engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), Base.metadata) == []
        for view in VIEWS:
            assert db.execute(text(f"SELECT * FROM {view}")).fetchall() == []
        for table in Base.metadata.tables.values():
            columns = f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table.name}'"
            found = db.execute(text(f"{columns} ORDER BY ordinal_position")).scalars().all()
            assert found == [column.name for column in table.columns]
    engine.dispose()


@pytest.mark.parametrize("foreign", ["alembic_version (version_num text)", "trades (x int)", "mine (x int)"])
def test_a_schema_with_tables_of_somebody_else_is_refused_and_left_alone(backend: Any, foreign: str) -> None:
    url = backend.place()
    ask(url, f"CREATE TABLE {foreign}")
    before = tables_of(url)
    for touch in (Writer, open_store, upgrade_database, lambda url: delete_database(url).__enter__()):
        with pytest.raises(SchemaMismatch, match="were not made by tradesweep and was left alone; set TRADESWEEP_DB"):
            touch(url)
    assert tables_of(url) == before


def test_tables_of_an_extension_are_nobodys(backend: Any) -> None:
    url = backend.place()
    ask(url, "CREATE TABLE of_extension (x int); ALTER EXTENSION plpgsql ADD TABLE of_extension")
    Writer(url).close()


def test_a_newer_schema_is_refused(world: Any) -> None:
    world.writer.close()
    ask(world.path, "UPDATE alembic_version SET version_num = '9999'")
    for touch in (Writer, open_store, upgrade_database):
        with pytest.raises(SchemaMismatch, match="has schema 9999, the newest that this version knows is"):
            touch(world.path)


def test_a_creation_that_fails_leaves_nothing(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(connection: Any) -> None:
        connection.exec_driver_sql("CREATE TABLE half (x int)")
        connection.exec_driver_sql("this is no SQL")

    url = backend.place()
    monkeypatch.setattr("tradesweep.store.postgres.upgrade", refuse)
    with pytest.raises(StoreError, match="the database refused: syntax error"):
        Writer(url)
    assert tables_of(url) == []


def test_of_many_that_create_it_at_once_each_finds_it_made(backend: Any) -> None:
    url = backend.place()
    with ThreadPoolExecutor(4) as threads:
        writers = list(threads.map(Writer, [url] * 4))
    for writer in writers:
        writer.close()
    assert ask(url, "SELECT count(*) FROM alembic_version") == [(1,)]


def test_two_schemas_of_one_database_are_two_databases(backend: Any) -> None:
    url = backend.place()
    ask(url, "CREATE SCHEMA other")
    other = f"{url}?options=-csearch_path%3Dother"
    with Writer(url, alone=True), Writer(other, alone=True):
        pass
    with delete_database(other):
        assert not database_exists(other)
    assert database_exists(url)


def test_a_deleted_database_can_be_made_again(green: str) -> None:
    with delete_database(green):
        assert tables_of(green) == []
    Writer(green).close()
    assert open_store(green).list_sweeps() == []


# --- who may write --------------------------------------------------------------------------------------------


def test_two_sweeps_are_recorded_at_the_same_time(world: Any, world_type: Any) -> None:
    """Batches of both in turn: each is applied once, the numbers are disjoint, every rule holds."""
    other = world_type.__new__(world_type)
    other.path, other.writer = world.path, Writer(world.path)
    other.writer.open_sweep(world.new_sweep(sweep_id="other-1", experiment="other", identity="ab" * 32))
    runs = [world.begin(), world.TrialRun(other.writer, other.open_trial(0, "other-1"), sweep_id="other-1")]
    for _ in range(3):
        for run in runs:
            run.train(7, 9)
            run.evaluate()
    for run in runs:
        run.writer.close_sweep(run.sweep_id, SweepStatus.FINISHED)
    other.writer.close()
    numbers = [{runner.grant.producer_no for runner in [*run.runners, run.trial]} for run in runs]
    assert not numbers[0] & numbers[1]
    counts = [world.store.counts(run.sweep_id) for run in runs]
    assert (counts[0].steps, counts[0].episodes) == (counts[1].steps, counts[1].episodes)
    assert [result.rule for result in verify(world.store) if not result.passed] == []


def test_a_sweep_has_one_writer_which_is_named(world: Any, holder: subprocess.Popen[str]) -> None:
    with (
        Writer(world.path) as writer,
        pytest.raises(StoreLocked, match=rf"sweep small-12345678 is in use by process {holder.pid} on .* since 20"),
    ):
        writer.open_sweep(world.new_sweep())


def test_every_way_to_write_to_a_sweep_needs_its_lock(world: Any) -> None:
    run = world.begin()
    runner = run.runners[0]
    batch = runner.batch(runner.lanes[0][0].between(0, 3))
    ways: list[Callable[[Writer], object]] = [
        lambda writer: writer.apply(batch),
        lambda writer: writer.hello(runner.key, pid=1, host="there"),
        lambda writer: writer.open_trial(world.sweep_id, 1, "{}", 1, "h"),
        lambda writer: writer.start_attempt(run.trial_id, 1),
        lambda writer: writer.close_trial(run.trial_id, "FAILED"),
        lambda writer: writer.close_sweep(world.sweep_id, "FAILED"),
        lambda writer: writer.mark_checkpoint_deleted(run.trial_id, 1),
    ]
    with Writer(world.path) as intruder:
        for way in ways:
            with pytest.raises(StoreLocked):
                way(intruder)
    assert world.writer.apply(batch) == Answer.OK


def test_the_lock_of_a_killed_writer_is_free(world: Any, holder: subprocess.Popen[str]) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    world.writer = Writer(world.path, alone=True)
    world.writer.open_sweep(world.new_sweep())


def test_what_changes_the_whole_database_waits_for_all_writers(world: Any) -> None:
    world.begin()
    for touch in (lambda url: Writer(url, alone=True), lambda url: delete_database(url).__enter__()):
        with pytest.raises(StoreLocked, match=f"the database is in use by process {os.getpid()} on"):
            touch(world.path)
    world.writer.close()
    with Writer(world.path, alone=True), pytest.raises(StoreLocked, match="the database is in use by process"):
        Writer(world.path)


def test_a_reader_is_in_nobodys_way(world: Any) -> None:
    world.writer.close()
    with Writer(world.path, alone=True):
        assert len(open_store(world.path).list_sweeps()) == 1


# --- lost connections -----------------------------------------------------------------------------------------


def test_a_lost_connection_is_made_anew_with_its_locks(world: Any) -> None:
    runner = world.begin().runners[0]
    first, second = (runner.batch(runner.lanes[0][0].between(t, t + 3)) for t in (0, 3))
    assert world.writer.apply(first) == Answer.OK
    cut_connection(world.path)
    with pytest.raises(StoreUnavailable, match=r"ended the connection|was lost"):
        world.writer.apply(second)
    assert world.writer.apply(second) == Answer.OK
    with Writer(world.path) as writer, pytest.raises(StoreLocked):
        writer.claim(world.sweep_id)


def test_a_connection_that_is_lost_during_the_copy_leaves_nothing(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = world.begin().runners[0]
    batch = runner.batch(runner.lanes[0][0].between(0, 20))
    rows = batch.rows[Record.STEPS]

    class CutsInTheMiddle(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from rows[:10]
            cut_connection(world.path)
            yield from rows[10:]

    batch.rows[Record.STEPS] = CutsInTheMiddle(rows)
    monkeypatch.setattr("tradesweep.store.copying._without_nan", lambda kind, rows: rows)
    with pytest.raises(StoreUnavailable):
        world.writer.apply(batch)
    assert ask(world.path, "SELECT count(*) FROM steps") == [(0,)]
    batch.rows[Record.STEPS] = rows
    assert world.writer.apply(batch) == Answer.OK


def test_a_commit_whose_answer_was_lost_is_found_by_the_watermark(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = world.begin().runners[0]
    batch = runner.batch(runner.lanes[0][0].between(0, 5))
    commit = PGDialect_psycopg.do_commit

    def commit_and_lose(dialect: Any, connection: Any) -> None:
        commit(dialect, connection)
        cut_connection(world.path)
        connection.execute("SELECT 1")

    with monkeypatch.context() as patch:
        patch.setattr(PGDialect_psycopg, "do_commit", commit_and_lose)
        with pytest.raises(StoreUnavailable):
            world.writer.apply(batch)
    assert world.writer.apply(batch) == Answer.DUP
    assert ask(world.path, "SELECT count(*) FROM steps") == [(5,)]


def test_a_sweep_that_another_took_over_meanwhile_is_not_written(world: Any) -> None:
    runner = world.begin().runners[0]
    batch = runner.batch(runner.lanes[0][0].between(0, 3))
    cut_connection(world.path)
    with Writer(world.path) as other:
        other.claim(world.sweep_id)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                world.writer.apply(batch)
    assert world.writer.apply(batch) == Answer.OK


# --- what is stored -------------------------------------------------------------------------------------------


def test_commits_wait_for_the_disk_and_reads_cannot_write(world: Any) -> None:
    engine = find_database(world.path).write_engine()
    with engine.connect() as db:
        assert db.execute(text("SHOW synchronous_commit")).scalar() == "on"
    engine.dispose()
    with pytest.raises(StoreError, match="read-only"), world.store.connect() as db:
        db.execute(text("DELETE FROM outbox"))


def test_a_read_sees_one_state(world: Any) -> None:
    run = world.begin()
    with world.store.connect() as db:
        before = db.execute(text("SELECT count(*) FROM steps")).scalar()
        run.train(5)
        assert db.execute(text("SELECT count(*) FROM steps")).scalar() == before
    assert world.store.counts(world.sweep_id).steps > (before or 0)


def test_no_value_is_stored_for_not_a_number(world: Any) -> None:
    runner = world.begin().runners[0]
    rows = runner.lanes[0][0].between(0, 2)
    rows[Record.STEPS] = [(*step[:7], float("nan"), *step[8:]) for step in rows[Record.STEPS]]
    runner.send({kind: found for kind, found in rows.items() if kind not in (Record.FILLS, Record.TRADES)})
    assert ask(world.path, "SELECT DISTINCT fill_price FROM steps") == [(None,)]


def test_an_error_with_a_sign_that_postgresql_lacks_ends_its_trial(world: Any) -> None:
    trial_id = world.begin().trial_id
    world.writer.close_trial(trial_id, "FAILED", "Traceback: \0 in a name")
    assert world.store.get_trial(trial_id).error == "Traceback:  in a name"


def test_room_is_measured_and_given_back(green: str) -> None:
    with Writer(green, alone=True) as writer:
        before = writer.database.size_bytes()
        writer.database.reclaim()
        assert 0 < writer.database.size_bytes() <= before


# --- what people are told -------------------------------------------------------------------------------------


def replaced(old: str, new: str) -> Callable[[str, Any], str]:
    return lambda url, server: url.replace(old.format(s=server), new)


WRONG: list[tuple[Any, type[StoreError], str]] = [
    (replaced("{s.password}", "s3cr3t"), StoreError, "refused the login; check user and password"),
    (replaced("{s.password}", "s3cr3t@x"), StoreUnavailable, "there is no host of that name"),
    (replaced(":{s.password}", ""), StoreError, "refused the login; check user and password"),
    (replaced("tradesweep_tests:", "nobody:"), StoreError, "refused the login"),
    (replaced("127.0.0.1", "no.such.host.invalid"), StoreUnavailable, "no host of that name; check TRADESWEEP_DB_URL"),
    (replaced(":{s.port}", ":1"), StoreUnavailable, "no server answers there; start it, or check host and port"),
    (replaced(":{s.port}", ":s3cr3t"), StoreError, "the port must be a number|cannot be read"),
    (lambda url, server: server.url("no_such_database"), StoreError, "there is no such database; create it"),
    (lambda url, server: f"{url}?color=1", StoreError, "the URL of the database cannot be read"),
    (lambda url, server: f"{url}?options=-csearch_path%3Dnone", StoreError, "the search path names no schema"),
    (
        lambda url, server: f"{url}?options=-cdefault_transaction_read_only%3Don",
        StoreUnavailable,
        "the server takes no writes, it is read-only or a standby",
    ),
]


@pytest.mark.parametrize(("spoil", "kind", "message"), WRONG)
def test_a_url_that_leads_nowhere_gets_one_line_with_its_remedy(
    backend: Any, postgres: Any, spoil: Any, kind: type[StoreError], message: str
) -> None:
    url = backend.place()
    with pytest.raises(kind, match=message) as refusal:
        Writer(spoil(url, postgres))
    said = str(refusal.value)
    assert "\n" not in said
    assert postgres.password not in said
    assert "s3cr3t" not in said
    assert tables_of(url) == []


def test_a_user_without_rights_is_told_so(backend: Any, postgres: Any) -> None:
    url = backend.place()
    name = url.rsplit("/", 1)[1]
    postgres.execute(f"CREATE ROLE guest_{name} LOGIN PASSWORD 'gu3st'")
    postgres.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    with pytest.raises(StoreError, match=r"the user lacks a right; use a database that belongs to this user"):
        Writer(f"postgresql://guest_{name}:gu3st@127.0.0.1:{postgres.port}/{name}")
    assert tables_of(url) == []


def test_a_server_without_free_connections_may_have_some_later(backend: Any, postgres: Any) -> None:
    url = backend.place()
    name = url.rsplit("/", 1)[1]
    postgres.execute(f"CREATE ROLE few_{name} LOGIN PASSWORD 'f3w' CONNECTION LIMIT 0")
    with pytest.raises(StoreUnavailable, match="the server takes no more connections"):
        open_store(f"postgresql://few_{name}:f3w@127.0.0.1:{postgres.port}/{name}")


def test_without_the_driver_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tradesweep.store.postgres", raising=False)
    monkeypatch.delitem(sys.modules, "tradesweep.store.copying", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"driver, which is not installed; run `pip install 'tradesweep\[postgres\]'`"):
        find_database("postgresql://me:s3cr3t@there/db")


# --- backups --------------------------------------------------------------------------------------------------


@pytest.fixture
def client_programs(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pg_dump` of the server's own version."""
    monkeypatch.setenv("PATH", f"{postgres.programs}{os.pathsep}{os.environ['PATH']}")


def test_a_backup_restores_every_row_and_view(
    client_programs: None, backend: Any, green: str, postgres: Any, tmp_path: Path
) -> None:
    target = tmp_path / find_database(green).name_backup("copy")
    assert back_up(green, target) > 1000
    assert target.stat().st_mode & 0o777 == 0o600
    assert postgres.password.encode() not in target.read_bytes()
    copy = backend.place()
    command = find_database(copy).describe_restore(target).replace(str(find_database(copy)), copy)
    subprocess.run(command, shell=True, check=True)
    for name in (*Base.metadata.tables, *VIEWS):
        assert ask(copy, f"SELECT * FROM {name} ORDER BY 1, 2") == ask(green, f"SELECT * FROM {name} ORDER BY 1, 2")
    with Writer(copy) as writer:
        writer.claim("small-12345678")


def test_a_backup_without_its_program_says_what_to_install(
    green: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match="a backup is made with pg_dump, which is not installed; install PostgreSQL's"):
        back_up(green, tmp_path / "copy.dump")
    assert list(tmp_path.iterdir()) == []
