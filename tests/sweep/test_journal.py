"""The export for optuna-dashboard: Optuna reads from it what the search knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tradesweep.sweep.search import PastTrial, PointSearch

SWEEP = """
algorithm: dqn
search:
  lr: {loguniform: [1e-3, 3e-3]}
  model.hiddens: {choice: [[32, 32], [64]]}
"""

READ = """
import json, sys, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
study = optuna.load_study(study_name=sys.argv[2], storage=JournalStorage(JournalFileBackend(sys.argv[1])))
print(json.dumps([
    [trial.user_attrs, trial.state.name, trial.value, trial.params, trial.intermediate_values, trial.number]
    for trial in study.trials
]))
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-12345678"
    folder.mkdir()
    return folder / "optuna.journal"


def read(journal: Path) -> dict[int, tuple]:
    """State, value, params and scores of each trial, as a new process reads them; each is there once."""
    command = [sys.executable, "-c", READ, str(journal), journal.parent.name]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    rows = json.loads(done.stdout)
    assert len({attrs["point_no"] for attrs, *_ in rows}) == len(rows)
    return {
        attrs["point_no"]: (state, value, params, list(scores.values()))
        for attrs, state, value, params, scores, _ in rows
    }


def test_optuna_reads_every_trial_as_the_search_knows_it(load, journal: Path) -> None:
    search = PointSearch(load(sweep=SWEEP), journal=journal)
    points = [search.ask(number) for number in range(4)]
    for number in range(4):
        search.report(number, 1, 0.25 * number)
    search.tell_finished(0, 1.5)
    search.tell_pruned(1)
    search.tell_failed(2)
    shown = read(journal)
    assert [shown[number][:2] for number in range(4)] == [
        ("COMPLETE", 1.5), ("PRUNED", 0.25), ("FAIL", None), ("RUNNING", None),
    ]  # fmt: skip
    for number, point in enumerate(points):
        assert point is not None
        assert shown[number][2] == {"lr": point["lr"], "model.hiddens": json.dumps(point["model.hiddens"])}
        assert shown[number][3] == [0.25 * number]


def test_after_a_resume_or_a_second_try_it_has_each_trial_once(load, journal: Path) -> None:
    spec = load(sweep=SWEEP)
    search = PointSearch(spec, journal=journal)
    points = [search.ask(number) for number in range(3)]
    search.tell_finished(0, 1.0)
    with journal.open("a") as torn:
        torn.write('{"op_code":')
    past = [PastTrial(trial_no=0, point=points[0], scores=(0.5, 1.0), pruned=False, failed=False)]
    search = PointSearch(spec, past, journal=journal)
    search.adopt(2, points[2], (0.25,))
    search.tell_failed(2)
    search.adopt(2, points[2], (0.25, 0.5))
    search.tell_finished(2, 0.5)
    assert {number: (state, value) for number, (state, value, *_) in read(journal).items()} == {
        0: ("COMPLETE", 1.0), 2: ("COMPLETE", 0.5),
    }  # fmt: skip
    assert read(journal)[2][3] == [0.25, 0.5]


def test_points_that_were_drawn_again_are_not_shown(load, journal: Path) -> None:
    spec = load("search={lr: {choice: [0.001, 0.002, 0.003]}}", "searcher.startup_trials=1")
    search = PointSearch(spec, journal=journal)
    for number in range(3):
        search.ask(number)
        search.tell_finished(number, 1.0)
    assert search.ask(3) is None
    assert len(search._study.trials) > 3, "TPE was asked for more than it gave"
    assert sorted(params["lr"] for _, _, params, _ in read(journal).values()) == [0.001, 0.002, 0.003]


def test_a_journal_that_cannot_be_written_is_named_once_and_stops_nothing(load, journal: Path, caplog) -> None:
    search = PointSearch(load(sweep=SWEEP), journal=journal)
    assert search.ask(0) is not None
    journal.unlink()
    journal.mkdir()
    for evaluation in range(1, 4):
        search.report(0, evaluation, 0.5)
    search.tell_finished(0, 0.5)
    assert search.ask(1) is not None
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"{journal} is not written any more"
    ]
    assert PointSearch(load(sweep=SWEEP), journal=journal / "gone" / "optuna.journal").ask(0) is not None


def test_lines_that_are_in_the_file_are_not_kept_in_memory(load, journal: Path) -> None:
    search = PointSearch(load(sweep=SWEEP), journal=journal)
    for number in range(30):
        search.ask(number)
        search.report(number, 1, float(number))
        search.tell_finished(number, float(number))
    kept = search._journal._storage._backend._logs  # type: ignore[union-attr]
    assert len(kept) <= 2
    assert len(read(journal)) == 30
