"""What Tune is told: configs until there are no more, and errors kept for the driver."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace
from typing import Any

from tradesweep.names import TrialStatus
from tradesweep.sweep.bridge import SearcherBridge, TrialCloser


def test_trials_are_opened_with_all_their_parameters_until_the_budget_is_spent(make_ledger, store) -> None:
    bridge = SearcherBridge(make_ledger())
    configs = [bridge.suggest(f"t{number}") for number in range(3)]
    assert bridge.suggest("t3") == SearcherBridge.FINISHED
    trials = store.list_trials("tiny-1")
    assert [trial.trial_no for trial in trials] == [0, 1, 2]
    for config, trial in zip(configs, trials, strict=True):
        assert config["trial_id"] == trial.trial_id
        assert json.loads(trial.params_json) == config["params"]
        assert json.loads(trial.point_json) == {"lr": config["params"]["lr"]}
        assert config["params"]["gamma"] == 0.9
    assert len({config["seed"] for config in configs}) == 3


def test_tune_is_asked_to_wait_while_a_trial_may_come_back(make_ledger, result) -> None:
    ledger = make_ledger("budget={env_steps_per_trial: 1024, trials: 1, max_retries: 1}")
    bridge = SearcherBridge(ledger)
    bridge.suggest("a")
    assert bridge.suggest("b") is None
    ledger.report("a", result(1, 0.5, TrialStatus.FINISHED))
    ledger.end("a")
    assert bridge.suggest("b") == SearcherBridge.FINISHED


def test_tune_is_asked_to_wait_for_the_end_of_the_search_where_leaders_are_confirmed(make_ledger, finish) -> None:
    ledger = make_ledger("budget.trials=1", "confirm={top: 1, seeds: 2}")
    bridge = SearcherBridge(ledger)
    bridge.suggest("a")
    assert bridge.suggest("b") is None
    finish(ledger, "a", 0.5)
    assert bridge.suggest("b")["seed"] != bridge.suggest("c")["seed"]
    assert bridge.suggest("d") == SearcherBridge.FINISHED


def test_what_tune_keeps_of_a_ledger_holds_nothing_of_the_database(make_ledger) -> None:
    assert pickle.loads(pickle.dumps(make_ledger())).__dict__ == {}


def test_a_callback_that_fails_is_kept_for_the_driver_and_never_raised_into_tune(make_ledger, recorder) -> None:
    class Tuned:
        trial_id = "a"
        run_metadata = SimpleNamespace(metric_analysis={"score": {"max": 1.0}}, metric_n_steps={"score": {"5": [1.0]}})

    ledger: Any = make_ledger()
    ledger.next_assignment("a")
    recorder.close()
    closer = TrialCloser(ledger)
    closer.on_trial_complete(1, [], Tuned())
    assert not Tuned.run_metadata.metric_analysis
    assert not Tuned.run_metadata.metric_n_steps
    assert closer.error is not None
