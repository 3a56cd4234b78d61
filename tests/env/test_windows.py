"""Where episodes may run: splits, windows, gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tradesweep.env import list_runs, list_starts
from tradesweep.market import Split


def test_a_split_without_gaps_is_one_run_from_its_first_full_window(box):
    splits = {"train": Split(name="train", start=0, stop=40), "validation": Split(name="validation", start=40, stop=60)}
    market = box.market(box.random_bars(0), first_valid=5, splits=splits)
    assert list_runs(market, "train", 4) == [(8, 40)]
    assert list_runs(market, "validation", 4) == [(40, 60)]


def test_training_starts_reach_from_the_first_full_window_to_the_last_whole_episode(box):
    market = box.market(box.random_bars(0), first_valid=5)
    assert list_starts(market, "train", 4, 10).tolist() == list(range(8, 60 - 10))
    assert len(list_starts(market, "train", 4, 51)) == 1
    assert len(list_starts(market, "train", 4, 52)) == 0


def test_neither_window_nor_episode_crosses_a_gap(box):
    market = box.market(box.random_bars(0, gaps=[20, 23]), first_valid=0)
    assert list_runs(market, "train", 3) == [(2, 20), (25, 60)]
    starts = list_starts(market, "train", 3, 10)
    assert starts.tolist() == [*range(2, 10), *range(25, 50)]
    segment = market.bars.segment
    assert all(len(np.unique(segment[s - 2 : s + 11])) == 1 for s in starts)


def test_bars_without_features_at_the_head_of_a_segment_are_left_out(box):
    market = box.market(box.random_bars(0, gaps=[30]))
    features = market.features_NF.copy()
    features[30:35] = np.nan
    assert list_runs(replace(market, features_NF=features), "train", 2) == [(1, 30), (36, 60)]
