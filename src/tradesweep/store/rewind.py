"""Going back to a checkpoint: what ran past it stays, and is marked as superseded.

A checkpoint holds, for every lane, the episode it was in and how far; and the highest producer number there was.
So each training episode of its attempt is known to be over by then, cut at t, or begun later, without asking a
clock. No step row is changed: `episodes.effective_steps` says how many of its steps count.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import Connection, Row

from tradesweep.names import PRODUCER_EPISODE_BITS, EpisodeRole
from tradesweep.store.models import Checkpoint, Episode, Evaluation, Iteration
from tradesweep.store.summary import refresh_trial


def rewind_trial(db: Connection, trial_id: int, next_attempt: int, iteration: int | None) -> Row[Any] | None:
    """Supersede what the trial did after `iteration`, all of it for None; the checkpoint it goes on from."""
    checkpoint = _find_checkpoint(db, trial_id, iteration)
    for model in (Iteration, Evaluation, Checkpoint):
        table = model.table()
        later = (table.c.trial_id == trial_id) & (table.c.iteration > (iteration or 0))
        db.execute(
            update(table)
            .where(later, table.c.superseded_by_attempt.is_(None))
            .values(superseded_by_attempt=next_attempt)
        )
    _drop_evaluation_episodes(db, trial_id)
    _cut_training_episodes(db, trial_id, checkpoint)
    refresh_trial(db, trial_id)
    return checkpoint


def _find_checkpoint(db: Connection, trial_id: int, iteration: int | None) -> Row[Any] | None:
    table = Checkpoint.table()
    return db.execute(
        select(table).where(
            table.c.trial_id == trial_id, table.c.iteration == iteration, table.c.superseded_by_attempt.is_(None)
        )
    ).first()


def _drop_evaluation_episodes(db: Connection, trial_id: int) -> None:
    """An evaluation counts whole or not at all; one whose result never came counts not at all."""
    evaluation, episode = Evaluation.table(), Episode.table()
    counted = select(evaluation.c.episode_no).where(
        evaluation.c.trial_id == trial_id, evaluation.c.superseded_by_attempt.is_(None)
    )
    _set_effective(
        db,
        0,
        episode.c.trial_id == trial_id,
        episode.c.role != EpisodeRole.TRAIN.value,
        episode.c.episode_no.not_in(counted),
    )


def _cut_training_episodes(db: Connection, trial_id: int, checkpoint: Row[Any] | None) -> None:
    episode = Episode.table()
    training = (episode.c.trial_id == trial_id) & (episode.c.role == EpisodeRole.TRAIN.value)
    if checkpoint is None:
        _set_effective(db, 0, training)
        return
    _set_effective(db, 0, training, episode.c.attempt > checkpoint.attempt)
    in_attempt = training & (episode.c.attempt == checkpoint.attempt)
    _set_effective(db, 0, in_attempt, episode.c.producer_no > checkpoint.last_producer_no)
    lanes = [(int(episode_no), int(t)) for episode_no, t in json.loads(checkpoint.lanes)]
    for producer_no, newest in _newest_episodes(lanes).items():
        _set_effective(db, 0, in_attempt, episode.c.producer_no == producer_no, episode.c.episode_no > newest)
    for episode_no, t in lanes:
        _set_effective(db, t, in_attempt, episode.c.episode_no == episode_no)


def _newest_episodes(lanes: list[tuple[int, int]]) -> dict[int, int]:
    """Each producer's newest episode: a producer numbers upwards, and its newest is always in a lane."""
    newest: dict[int, int] = {}
    for episode_no, _ in lanes:
        producer_no = episode_no >> PRODUCER_EPISODE_BITS
        newest[producer_no] = max(newest.get(producer_no, 0), episode_no)
    return newest


def _set_effective(db: Connection, steps: int, *where: Any) -> None:
    db.execute(update(Episode.table()).where(*where).values(effective_steps=steps))
