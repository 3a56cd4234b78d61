"""A sweep's trials in the form that optuna-dashboard opens: an export, written as the search goes and never read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tradesweep.sweep.pruners import NUMBER

logger = logging.getLogger(__name__)


class _Lines(BaseJournalBackend):
    """Lines of JSON, appended to a file once it has one.

    Optuna's own backend locks, syncs and reads again at every line. This one has no second writer, and can be written
    again from the store.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._logs: list[dict[str, Any]] = []
        self._forgotten = 0

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """From that line on; what lies before it in the file is never asked for again."""
        if self.path is not None:
            del self._logs[: log_number_from - self._forgotten]
            self._forgotten = log_number_from
        return self._logs[log_number_from - self._forgotten :]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
        self._logs += map(json.loads, lines)

    def move_to(self, path: Path) -> None:
        """Put all lines into `path`, whose old content stays whole until then, and go on there."""
        beside = path.with_suffix(".new")
        beside.write_text("".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in self._logs), "utf-8")
        beside.replace(path)
        self.path = path


class Journal:
    """The study of one sweep, named as its folder. What goes wrong here is logged once and ends nothing."""

    def __init__(self, path: Path) -> None:
        self._path, self._is_broken = path, False
        self._storage: JournalStorage | None = None
        self._ids: dict[int, int] = {}

    def rewrite(self, trials: Iterable[FrozenTrial]) -> None:
        """Begin again with these trials; of several with one number the last one stands."""
        self._try(lambda: self._rewrite({trial.user_attrs[NUMBER]: trial for trial in trials}))

    def begin(self, trial: FrozenTrial) -> None:
        """A trial runs."""
        self._try(lambda: self._add(trial))

    def report(self, trial_no: int, evaluation: int, score: float) -> None:
        """A score of a running trial."""
        self._try(lambda: self._open.set_trial_intermediate_value(self._ids[trial_no], evaluation, score))

    def end(self, trial_no: int, state: TrialState, score: float | None) -> None:
        """A trial ended."""
        values = None if score is None else [score]
        self._try(lambda: self._open.set_trial_state_values(self._ids[trial_no], state, values))

    @property
    def _open(self) -> JournalStorage:
        assert self._storage is not None, "it begins with rewrite()"
        return self._storage

    def _rewrite(self, trials: dict[int, FrozenTrial]) -> None:
        lines = _Lines()
        self._storage, self._ids = JournalStorage(lines), {}
        self._study = self._storage.create_new_study([StudyDirection.MAXIMIZE], self._path.parent.name)
        for number in sorted(trials):
            self._add(trials[number])
        lines.move_to(self._path)

    def _add(self, trial: FrozenTrial) -> None:
        """Without what samplers and pruners noted for themselves."""
        clean = create_trial(
            state=trial.state,
            value=trial.value,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=trial.user_attrs,
            intermediate_values=trial.intermediate_values,
        )
        clean.datetime_start, clean.datetime_complete = trial.datetime_start, trial.datetime_complete
        self._ids[trial.user_attrs[NUMBER]] = self._open.create_new_trial(self._study, clean)

    def _try(self, write: Callable[[], object]) -> None:
        if self._is_broken:
            return
        try:
            write()
        except Exception as error:  # whatever it is, a sweep does not end for a picture of it
            self._is_broken = True
            logger.warning("%s is not written any more: %s", self._path, error)
