"""What Tune is told: configs until there are no more, and errors kept for the driver."""

from __future__ import annotations

import json
import logging
import pickle
import signal
from types import SimpleNamespace
from typing import Any

from tradesweep.names import TrialStatus
from tradesweep.sweep.bridge import PruningScheduler, SearcherBridge, TrialCloser
from tradesweep.sweep.ledger import Ledger
from tradesweep.sweep.signals import Drain, Interruption
from tradesweep.sweep.tuning import SweepStopper


def build_bridge(ledger: Ledger, drain: Drain | None = None) -> SearcherBridge:
    return SearcherBridge(ledger, drain or Drain(Interruption()))


class Tuned:
    """A trial of Tune's."""

    def __init__(self, trial_id: str, config: Any) -> None:
        self.trial_id, self.config, self.error_file = trial_id, config, None
        self.run_metadata = SimpleNamespace(
            metric_analysis={"score": {"max": 1.0}}, metric_n_steps={"score": {"5": [1.0]}}
        )


def test_trials_are_opened_with_all_their_parameters_until_the_budget_is_spent(make_ledger, store) -> None:
    bridge = build_bridge(make_ledger())
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
    bridge = build_bridge(ledger)
    bridge.suggest("a")
    assert bridge.suggest("b") is None
    ledger.report("a", result(1, 0.5, TrialStatus.FINISHED))
    ledger.end("a")
    assert bridge.suggest("b") == SearcherBridge.FINISHED


def test_tune_is_asked_to_wait_for_the_end_of_the_search_where_leaders_are_confirmed(make_ledger, finish) -> None:
    ledger = make_ledger("budget.trials=1", "confirm={top: 1, seeds: 2}")
    bridge = build_bridge(ledger)
    bridge.suggest("a")
    assert bridge.suggest("b") is None
    finish(ledger, "a", 0.5)
    assert bridge.suggest("b")["seed"] != bridge.suggest("c")["seed"]
    assert bridge.suggest("d") == SearcherBridge.FINISHED


def test_what_tune_keeps_of_a_ledger_holds_nothing_of_the_database(make_ledger) -> None:
    assert pickle.loads(pickle.dumps(make_ledger())).__dict__ == {}


def test_what_tune_keeps_of_the_callback_holds_nothing_of_the_database(make_ledger, store) -> None:
    assert pickle.loads(pickle.dumps(TrialCloser(make_ledger(), Drain(Interruption()), store))).__dict__ == {}


def test_a_callback_that_fails_is_kept_for_the_driver_and_never_raised_into_tune(make_ledger, recorder, store) -> None:
    ledger: Any = make_ledger()
    tuned: Any = Tuned("a", ledger.next_assignment("a").to_config())
    recorder.close()
    closer = TrialCloser(ledger, Drain(Interruption()), store)
    closer.on_trial_complete(1, [], tuned)
    assert not tuned.run_metadata.metric_analysis
    assert not tuned.run_metadata.metric_n_steps
    assert tuned.get_json_state() == ("", "")
    assert closer.error is not None


# --- a sweep that shall stop ----------------------------------------------------------------------------------


def test_after_a_signal_no_trial_is_begun_and_those_that_train_are_interrupted_with_their_next_result(
    make_ledger, result, store
) -> None:
    interruption, ledger = Interruption(), make_ledger()
    drain = Drain(interruption)
    bridge, closer, stopper = build_bridge(ledger, drain), TrialCloser(ledger, drain, store), SweepStopper(drain)
    tuned: Any = Tuned("a", bridge.suggest("a"))
    closer.on_trial_start(1, [], tuned)
    assert (stopper("a", result(1, 0.5)), stopper.stop_all()) == (False, False)
    interruption.request(signal.SIGINT)
    assert bridge.suggest("b") == SearcherBridge.FINISHED
    assert not stopper.stop_all(), "its result is worth waiting for"
    assert stopper("a", result(2, 0.5))
    PruningScheduler(ledger).on_trial_complete(None, tuned, result(2, 0.5))
    closer.on_trial_complete(1, [], tuned)
    assert [trial.status for trial in store.list_trials("tiny-1")] == [TrialStatus.INTERRUPTED]
    assert stopper.stop_all()


def test_what_the_pruner_says_of_a_last_result_stands(make_ledger, result, store) -> None:
    ledger: Any = make_ledger("pruner={kind: successive_halving, min_evaluations: 1, reduction_factor: 2}")
    for number, score in enumerate([3.0, 2.0, 1.0]):
        tuned: Any = Tuned(str(number), ledger.next_assignment(str(number)).to_config())
        PruningScheduler(ledger).on_trial_complete(None, tuned, result(1, score))
        ledger.end(str(number))
    assert store.list_trials("tiny-1")[-1].status == TrialStatus.PRUNED


def test_the_drivers_log_says_how_each_trial_began_and_ended(make_ledger, result, store, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "tradesweep.sweep.bridge")
    ledger, drain = make_ledger(), Drain(Interruption())
    bridge, closer = build_bridge(ledger, drain), TrialCloser(ledger, drain, store)
    good, bad = (Tuned(name, bridge.suggest(name)) for name in "ab")
    for tuned in (good, bad):
        closer.on_trial_start(1, [], tuned)  # type: ignore[arg-type]
    assert drain.training == {"a", "b"}
    ledger.report("a", result(1, 0.5, TrialStatus.FINISHED))
    closer.on_trial_complete(1, [], good)  # type: ignore[arg-type]
    closer.on_trial_error(1, [], bad)  # type: ignore[arg-type]
    assert drain.training == set()
    begun, _, ended, lost = caplog.records
    assert begun.message.startswith("trial 0 begins: {'gamma': 0.9,")
    assert ended.message == "trial 0 FINISHED: 0 iterations, 0 env steps, best validation Sharpe none"
    assert (lost.levelname, lost.message.partition(":")[0]) == ("WARNING", "trial 1 CRASHED")
    assert lost.message.endswith("worker process lost")
