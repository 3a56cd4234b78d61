"""What a sweep wrote to its store, seen in a real MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tradesweep.home import Home
from tradesweep.names import EPISODE_STEP_BITS, ProducerKey, ProducerRole, Record, SweepStatus, TrialStatus
from tradesweep.spec import SweepSpec
from tradesweep.store import DecodedBatch, NewSweep, Store, Writer, open_store
from tradesweep.tracking import Projector, RunBook, RunKey

SWEEP = "dqn_lr-12345678"
START_US = 1_700_000_000_000_000


class Clock:
    """Each look is a second later."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        self.now_us += 1_000_000
        return self.now_us


@pytest.fixture
def writer(home: Home) -> Iterator[Writer]:
    with Writer(home.database, clock_us=Clock()) as made:
        yield made


@pytest.fixture
def store(writer: Writer) -> Store:
    return open_store(writer.path)


@pytest.fixture(scope="session")
def spec() -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "experiment": "dqn_lr",
            "sweep": "dqn_lr",
            "algorithm": "dqn",
            "fixed": {"gamma": 0.99, "model.hiddens": [64, 64]},
            "market": {"source": "sample", "name": "sp500", "periods_per_year": 252.0},
            "features": [{"name": "rsi"}],
            "splits": {
                "train": ["1999-01-04", "2012-12-31"],
                "validation": ["2013-01-02", "2015-12-31"],
                "test": ["2016-01-04", "2018-12-31"],
            },
            "env": {"fill": "next_close"},
            "budget": {"trials": 2, "env_steps_per_trial": 1000},
        }
    )
