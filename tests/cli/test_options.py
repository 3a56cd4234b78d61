from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.cli.options import split_settings
from tradesweep.errors import BadInput

KEYS = st.from_regex(r"[a-z_]+(\.[a-z_0-9]+){0,2}", fullmatch=True)
VALUES = st.sampled_from(["1", "1e-4", "[1, 2]", "{loguniform: [1e-4, 1e-2]}", "two words", "next_open", ""])


@pytest.mark.parametrize(
    ("given_words", "found"),
    [
        (["a.b=1 c=2"], ["a.b=1", "c=2"]),
        (["a.b=1", "c=2"], ["a.b=1", "c=2"]),
        (["search.lr={loguniform: [1e-4, 1e-3]} seed=1"], ["search.lr={loguniform: [1e-4, 1e-3]}", "seed=1"]),
        ([""], []),
        (None, []),
    ],
)
def test_settings_are_split_where_a_key_begins(given_words: list[str] | None, found: list[str]) -> None:
    assert split_settings(given_words) == found


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=5))
def test_settings_in_one_word_are_those_in_many(pairs: list[tuple[str, str]]) -> None:
    words = [f"{key}={value}" for key, value in pairs]
    assert split_settings([" ".join(words)]) == split_settings(words) == words


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["budget.trials=4 budget.trials"], "budget.trials"),
        (["seed=1", "budget.trials=4 env.fee_bps"], "env.fee_bps"),
        (["budget.trials=4 search.model.hiddens"], "search.model.hiddens"),
    ],
)
def test_a_key_that_lost_its_value_is_named(words: list[str], key: str) -> None:
    with pytest.raises(BadInput, match=rf"every key must have a value, {key} has none; write {key}=\.\.\.$"):
        split_settings(words)


@pytest.mark.parametrize(
    "word",
    ["market.path=my data.csv", "description=all of budget.trials", "market.path='a env.fee_bps'", "a.b=[1 env.x]"],
)
def test_a_dotted_word_at_the_end_of_a_value_may_be_meant(word: str) -> None:
    assert split_settings([word]) == [word]
