"""Laws of the score and of patience."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.trial.stopping import ScoreHistory

raw_scores = st.lists(st.floats(-10, 10), min_size=1, max_size=40)


def play(scores: list[float], *, window: int = 1, patience: int | None = None, least: int = 1) -> list[bool]:
    """Whether the trial is exhausted after each score."""
    history = ScoreHistory(window=window, patience=patience, least=least)
    return [(history.add(score), history.is_exhausted)[1] for score in scores]


@settings(deadline=None)
@given(raw_scores, st.integers(1, 6))
def test_the_score_is_the_mean_of_the_last_raw_ones(scores: list[float], window: int) -> None:
    history = ScoreHistory(window=window, patience=None, least=1)
    for count, score in enumerate(scores, start=1):
        recent = scores[max(count - window, 0) : count]
        assert history.add(score) == pytest.approx(sum(recent) / len(recent))
        assert min(recent) - 1e-9 <= history._score(count) <= max(recent) + 1e-9


@settings(deadline=None)
@given(raw_scores, st.integers(1, 6))
def test_without_patience_a_trial_is_never_exhausted(scores: list[float], window: int) -> None:
    assert not any(play(scores, window=window))


@settings(deadline=None)
@given(raw_scores, st.integers(1, 5), st.integers(1, 20))
def test_a_trial_gets_its_least_evaluations(scores: list[float], patience: int, least: int) -> None:
    assert not any(play(scores, patience=patience, least=least)[: least - 1])


@settings(deadline=None)
@given(raw_scores, st.integers(1, 5))
def test_exhausted_means_that_patience_evaluations_brought_nothing_better(scores: list[float], patience: int) -> None:
    for count, exhausted in enumerate(play(scores, patience=patience), start=1):
        best, recent = max(scores[:count]), scores[max(count - patience, 0) : count]
        first = scores.index(best)
        assert exhausted == (count - 1 - first >= patience)
        assert not exhausted or best not in scores[first + 1 : count] or max(recent) <= best


@settings(deadline=None)
@given(raw_scores, st.integers(1, 5), st.integers(1, 4))
def test_ever_better_scores_never_exhaust(scores: list[float], patience: int, window: int) -> None:
    rising = [float(i) for i in range(len(scores))]
    assert not any(play(rising, patience=patience, window=window))


def test_an_equal_score_is_not_a_better_one() -> None:
    assert play([1.0, 1.0, 1.0, 1.0], patience=3) == [False, False, False, True]


@settings(deadline=None)
@given(raw_scores, st.integers(1, 4), st.integers(1, 5), st.data())
def test_a_history_goes_on_from_what_a_checkpoint_kept(
    scores: list[float], window: int, patience: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(scores)))
    whole = ScoreHistory(window=window, patience=patience, least=1)
    first = ScoreHistory(window=window, patience=patience, least=1)
    expected = [(whole.add(score), whole.is_exhausted) for score in scores]
    for score in scores[:cut]:
        first.add(score)
    second = ScoreHistory(window=window, patience=patience, least=1, raw=list(first.raw))
    assert [(second.add(score), second.is_exhausted) for score in scores[cut:]] == expected[cut:]
