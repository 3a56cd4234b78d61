from __future__ import annotations

import dataclasses
import json
import sqlite3
from typing import Any

import pytest

from tradesweep.errors import NotFound, StoreError, StoreLocked
from tradesweep.names import SweepStatus, TrialStatus
from tradesweep.selection import Force, GateRefused, promote, rehearse_promotion
from tradesweep.tracking import CANDIDATE, CHAMPION, find_alias, list_versions, open_client, prepare_backend

ALL_TIME = {"first_time": 0, "last_time": 2**62}


def readings(world: Any) -> list[Any]:
    return world.store.list_test_readings(world.runtime.market.instrument, **ALL_TIME)


def client_of(world: Any) -> Any:
    return open_client(prepare_backend(world.home.mlflow_database, world.home.artifacts))


def files_of(world: Any) -> dict[Any, bytes]:
    """All files but those that SQLite itself makes for whoever reads."""
    files = (path for path in world.home.path.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if not path.name.endswith(("-wal", "-shm"))}


def break_a_rule(world: Any) -> None:
    """Something that verify sees and that does not touch the number itself."""
    with sqlite3.connect(str(world.home.database)) as db:
        db.execute("UPDATE episodes SET pnl = pnl + 1 WHERE role = 'train'")


def test_the_best_checkpoint_becomes_champion(swept: Any) -> None:
    promotion = promote(swept.home, "small")
    assert (promotion.verdict, promotion.trial_no, promotion.version) == ("PASSED", 1, 1)
    champion = find_alias(client_of(swept), "small", CHAMPION)
    assert champion is not None
    assert champion.version == 1
    assert champion == find_alias(client_of(swept), "small", CANDIDATE)
    (row,) = swept.store.list_promotions()
    assert (row.verdict, row.version, row.previous_version, row.alias) == ("PASSED", "1", None, "champion")
    assert json.loads(row.details_json)["deflated"] == promotion.deflated


def test_the_test_split_is_read_once_and_written_down(swept: Any) -> None:
    promotion = promote(swept.home, "small")
    again = swept.runtime.evaluate(swept.runtime.policy(3.0, 1), "test")
    assert promotion.reading is not None
    assert promotion.reading.sharpe == again.sharpe
    assert promotion.reading.details["trades"] == again.trades
    (reading,) = readings(swept)
    times, split = swept.runtime.market.bars.time_us, swept.runtime.market.splits["test"]
    assert (reading.first_time, reading.last_time) == (times[split.start], times[split.stop - 1])
    assert (reading.sharpe, reading.market_sha256) == (again.sharpe, swept.runtime.market.sha256)
    champion = find_alias(client_of(swept), "small", CHAMPION)
    assert champion is not None
    assert champion.tags["test/sharpe"] == str(again.sharpe)


def test_no_test_episode_reaches_the_recorded_rows(swept: Any) -> None:
    before = swept.store.counts(swept.sweep_id)
    promote(swept.home, "small")
    assert swept.store.counts(swept.sweep_id) == before


def test_promoting_again_reads_nothing_and_makes_nothing(swept: Any) -> None:
    first = promote(swept.home, "small")
    second = promote(swept.home, "small")
    assert second.already_champion
    assert second.registered_before
    assert second.reading is not None
    assert first.reading is not None
    assert second.reading.earlier
    assert (second.reading.sharpe, second.reading.details) == (first.reading.sharpe, first.reading.details)
    assert (
        len(readings(swept)) == len(swept.store.list_promotions()) == len(list_versions(client_of(swept), "small")) == 1
    )


def test_a_promotion_that_died_half_way_is_completed_without_a_second_reading(
    swept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tradesweep.store.Writer.record_promotion", die)
        with pytest.raises(KeyboardInterrupt):
            promote(swept.home, "small")
    assert (len(readings(swept)), swept.store.list_promotions()) == (1, [])
    promotion = promote(swept.home, "small")
    assert promotion.already_champion
    assert len(readings(swept)) == len(swept.store.list_promotions()) == 1


def test_a_better_checkpoint_takes_over_and_has_its_own_reading(world: Any) -> None:
    world.write_sweep({0: -3.0}, status=SweepStatus.INTERRUPTED)
    promote(world.home, "small")
    with world.writer() as writer:
        world.open_sweep(writer, driver_started_at=2)
        world.write_trial(writer, 1, 3.0, status=TrialStatus.FINISHED)
        writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    promotion = promote(world.home, "small")
    assert (promotion.version, promotion.previous_version) == (2, 1)
    assert promotion.reading is not None
    assert (promotion.reading.earlier, promotion.reading.number) == (False, 2)


def test_a_rehearsal_writes_nothing_and_does_not_read_test(swept: Any) -> None:
    before = files_of(swept)
    promotion = rehearse_promotion(swept.home, "small")
    assert (promotion.verdict, promotion.reading, promotion.version) == ("PASSED", None, None)
    assert len(promotion.checks) > 0
    assert files_of(swept) == before


def test_a_refusal_is_recorded_and_reads_nothing(swept: Any) -> None:
    break_a_rule(swept)
    assert rehearse_promotion(swept.home, "small").verdict == "REFUSED"
    with pytest.raises(GateRefused, match=r"the gate refused: database must be 0 broken.*--force") as refusal:
        promote(swept.home, "small")
    assert refusal.value.exit_code == 3
    assert [check.name for check in refusal.value.checks if not check.passed] == ["database"]
    (row,) = swept.store.list_promotions()
    assert (row.verdict, row.version) == ("REFUSED", None)
    assert readings(swept) == []
    assert list_versions(client_of(swept), "small") == []


def test_force_passes_a_check_and_says_who_and_why(swept: Any) -> None:
    break_a_rule(swept)
    promotion = promote(swept.home, "small", force=Force(reason="I know this row"))
    assert promotion.verdict == "FORCED"
    (row,) = swept.store.list_promotions()
    details = json.loads(row.details_json)
    assert (row.verdict, row.reason, row.version) == ("FORCED", "I know this row", "1")
    assert details["by"]
    assert [check["name"] for check in details["checks"] if not check["passed"]] == ["database"]


def test_force_does_not_pass_integrity(swept: Any) -> None:
    (swept.folder(1) / "policy.safetensors").write_bytes(b"other weights")
    with pytest.raises(GateRefused, match="rule of integrity, which force does not pass"):
        promote(swept.home, "small", force=Force(reason="please"))
    assert readings(swept) == []
    assert swept.store.list_promotions()[0].verdict == "REFUSED"


def test_a_running_writer_is_named(swept: Any) -> None:
    with swept.writer(), pytest.raises(StoreLocked, match="in use by process"):
        promote(swept.home, "small")


def test_what_does_not_exist_is_said(world: Any, swept: Any) -> None:
    with pytest.raises(NotFound, match="there is no sweep or experiment 'other'"):
        promote(swept.home, "other")
    empty = dataclasses.replace(swept.home, path=swept.home.path / "empty")
    with pytest.raises(StoreError, match="there is no database"):
        promote(empty, "small")
    assert not empty.path.exists()
