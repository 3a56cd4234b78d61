"""A PostgreSQL server that crashes, goes away or cuts connections: each batch is written once, and none is missing."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
import ray
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from tests.faults.conftest import SWEEP, Arena
from tests.faults.invariants import check_invariants
from tests.faults.load import make_sweep, sample
from tests.faults.test_recorder_faults import check_rows_are_those_sent

from tradesweep.errors import RecorderUnavailable, StoreUnavailable
from tradesweep.names import ProducerKey, ProducerRole, SweepStatus, TrialStatus
from tradesweep.recording import LocalRecorder, Producer, create_recorder
from tradesweep.store import Writer

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(300)]

PATIENT_S, IMPATIENT_S, AWAY_S = 90.0, 5.0, 15.0


class ServerDatabase:
    """A server's database, asked through its own driver."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(sql.replace("%", "%%")).fetchall()


class ServerArena(Arena):
    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.database.rows(sql)


@pytest.fixture
def arena(cluster: None, own_postgres: Any, tmp_path: Path) -> Iterator[ServerArena]:
    """A sweep that is recorded by a real recorder into a server that the test may stop."""
    url = own_postgres.new_database()
    recorder = create_recorder(url, name=f"recorder-{tmp_path.name}", timeout_s=PATIENT_S)
    made = ServerArena(tmp_path, ServerDatabase(url), recorder)
    made.begin()
    yield made
    for hand in made.hands:
        ray.kill(hand.actor)
    ray.kill(recorder._handle)


@pytest.mark.ray
def test_a_server_that_crashes_three_times_holds_exactly_what_was_sent(arena: ServerArena, own_postgres: Any) -> None:
    batches = 80
    hands = [arena.hire(worker, seed=worker, timeout_s=PATIENT_S) for worker in range(2)]
    for hand in hands:
        hand.start(batches)
    for count in (20, 60, 100):
        arena.wait_for(count)
        own_postgres.restart("immediate")
    counts = [hand.result() for hand in hands]
    assert sum(each.resends for each in counts) >= 3
    for seed, hand in enumerate(hands):
        check_rows_are_those_sent(arena, hand, seed=seed, batches=batches)
    arena.finish()


@pytest.mark.ray
def test_a_server_that_is_away_for_a_while_stops_the_producers_and_loses_nothing(
    arena: ServerArena, own_postgres: Any
) -> None:
    hand = arena.hire(0, seed=0, timeout_s=PATIENT_S)
    hand.start(100)
    arena.wait_for(10)
    own_postgres.stop("immediate")
    time.sleep(AWAY_S)
    before = hand.acknowledged()
    own_postgres.start()
    assert hand.result().rows_acknowledged == hand.result().rows_sent
    assert before < 100
    check_rows_are_those_sent(arena, hand, seed=0, batches=100)
    arena.finish()


@pytest.mark.ray
def test_a_server_that_stays_away_fails_in_time_and_says_why(arena: ServerArena, own_postgres: Any) -> None:
    hand = arena.hire(0, seed=0, timeout_s=IMPATIENT_S)
    hand.start(10_000)
    arena.wait_for(10)
    own_postgres.stop("immediate")
    with pytest.raises(RecorderUnavailable, match=r"must be committed within 5 s .* was not: .*") as failure:
        hand.result(timeout_s=6 * IMPATIENT_S)
    assert "no server answers there; start it" in str(failure.value)
    assert own_postgres.password not in str(failure.value)
    own_postgres.start()
    arena.finish()


# --- connections that are cut beside a commit ---------------------------------------------------------------------


class Cutter:
    """Cuts the writing connection before, while and after it commits, in turns that a seed decides."""

    def __init__(self, url: str, seed: int) -> None:
        self.admin = psycopg.connect(url, autocommit=True)
        self.chance = random.Random(seed)
        self.cuts = 0
        self.armed = False
        self.commit = PGDialect_psycopg.do_commit

    def __call__(self, dialect: Any, connection: Any) -> None:
        if not self.armed:
            self.commit(dialect, connection)
            return
        self.armed = False
        self.cuts += 1
        self.chance.choice(self.WAYS)(self, dialect, connection)

    def cut(self, pid: int) -> None:
        self.admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    def before(self, dialect: Any, connection: Any) -> None:
        self.cut(connection.driver_connection.info.backend_pid)
        self.commit(dialect, connection)

    def beside(self, dialect: Any, connection: Any) -> None:
        knife = threading.Thread(target=self.cut, args=(connection.driver_connection.info.backend_pid,))
        knife.start()
        time.sleep(self.chance.uniform(0.0, 0.002))
        try:
            self.commit(dialect, connection)
        finally:
            knife.join()

    def after(self, dialect: Any, connection: Any) -> None:
        self.commit(dialect, connection)
        self.cut(connection.driver_connection.info.backend_pid)
        connection.execute("SELECT 1")

    WAYS: tuple[Callable[..., None], ...] = (before, beside, after)


def test_a_connection_cut_a_hundred_times_beside_its_commit_writes_each_batch_once(
    postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = ServerDatabase(postgres.new_database())
    with Writer(database.url) as writer:
        writer.open_sweep(make_sweep(SWEEP))
        trial_id = writer.open_trial(SWEEP, 0, "{}", 7, "hash")
        attempt = writer.start_attempt(trial_id, 1)
        recorder = LocalRecorder(writer)
        key = ProducerKey(SWEEP, trial_id, attempt, ProducerRole.RUNNER, 0)
        producer = Producer(lambda: recorder, key, timeout_s=30.0)
        cutter = Cutter(database.url, seed=5)
        monkeypatch.setattr(PGDialect_psycopg, "do_commit", lambda dialect, connection: cutter(dialect, connection))
        for records in islice(sample(producer.next_episode_no, 5), 100):
            cutter.armed = True
            producer.send(records)
        producer.flush()
        with suppress(StoreUnavailable):  # the last cut may have come behind its commit
            writer.claim(SWEEP)
        assert cutter.cuts == 100
        assert producer.counts.rows_acknowledged == producer.counts.rows_sent
        hand = type("Hand", (), {"producer_no": producer.grant.producer_no})
        check_rows_are_those_sent(database, hand, seed=5, batches=100)
        assert database.rows("SELECT last_seq, batches FROM producers") == [(100, 100)]
        writer.close_trial(trial_id, TrialStatus.INTERRUPTED)
        writer.close_sweep(SWEEP, SweepStatus.INTERRUPTED)
    check_invariants(database)
