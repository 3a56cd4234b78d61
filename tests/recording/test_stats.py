from __future__ import annotations

import os

import pytest

from tradesweep.names import Answer
from tradesweep.recording.stats import CommitMeter


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_idle_recorder_has_no_rate_and_no_commit(clock: Clock) -> None:
    stats = CommitMeter(clock).read()
    assert (stats.rows, stats.rows_per_s, stats.lag_s, stats.last_commit_at_us) == (0, 0.0, 0.0, None)
    assert stats.pid == os.getpid()


def test_rate_and_lag_are_those_of_the_last_ten_seconds(clock: Clock) -> None:
    meter = CommitMeter(clock)
    meter.count(Answer.OK, rows=9_000, sent_at_s=990.0)
    clock.now_s += 15
    meter.count(Answer.OK, rows=300, sent_at_s=clock.now_s - 0.5)
    meter.count(Answer.OK, rows=200, sent_at_s=clock.now_s - 0.25)
    stats = meter.read()
    assert (stats.rows, stats.batches) == (9_500, 3)
    assert stats.rows_per_s == pytest.approx(50.0)
    assert stats.lag_s == pytest.approx(0.5)
    assert stats.last_commit_at_us == 1_015_000_000


def test_a_young_recorder_is_measured_over_its_own_age(clock: Clock) -> None:
    meter = CommitMeter(clock)
    clock.now_s += 4
    meter.count(Answer.OK, rows=400, sent_at_s=clock.now_s)
    assert meter.read().rows_per_s == pytest.approx(100.0)


def test_only_what_was_committed_counts_as_rows(clock: Clock) -> None:
    meter = CommitMeter(clock)
    for answer in (Answer.DUP, Answer.GAP, Answer.FENCED):
        meter.count(answer, rows=10, sent_at_s=clock.now_s)
    stats = meter.read()
    assert (stats.rows, stats.batches, stats.duplicates) == (0, 0, 1)


def test_a_clock_that_jumps_back_gives_no_negative_lag(clock: Clock) -> None:
    meter = CommitMeter(clock)
    meter.count(Answer.OK, rows=1, sent_at_s=clock.now_s + 60)
    assert meter.read().lag_s == 0.0
