from functools import partial

import numpy as np
import pytest

from tradesweep.errors import MarketError
from tradesweep.market.sources import load_csv

HOURS = [str(np.datetime64("2020-10-31T00:00") + np.timedelta64(i, "h")) for i in range(50)]


@pytest.fixture
def load(write, rules):
    """Load hourly bars with these stamps in a market that never closes."""

    def load_stamps(stamps, **changes):
        path = write([[stamp, "1", "2", "1", "1.5", "3"] for stamp in stamps])
        usual = {"periods_per_year": 8766, "calendar": "24x7", "bar_label": "end", "timezone": None}
        return load_csv(path, rules(**{**usual, **changes}))

    return load_stamps


def test_naive_stamps_need_a_time_zone(load):
    with pytest.raises(MarketError, match=r"must have a time zone, was times without an offset; set market.timezone"):
        load(HOURS)


def test_an_hour_that_occurs_twice_is_named(load):
    with pytest.raises(MarketError, match=r"prices.csv:27 \(2020-11-01T01:00\) .* occurs twice \(clocks go back\)"):
        load(HOURS, timezone="America/New_York")


def test_an_hour_that_never_occurs_is_named(load):
    spring = [str(np.datetime64("2020-03-07T00:00") + np.timedelta64(i, "h")) for i in range(50)]
    with pytest.raises(MarketError, match=r"prices.csv:28 .* occurs never \(clocks go forward\)"):
        load(spring, timezone="America/New_York")


def test_below_daily_the_label_is_required(load):
    with pytest.raises(MarketError, match=r"bar_label must be start or end for bars shorter than a day \(1h\)"):
        load(HOURS, timezone="UTC", bar_label=None)


def test_a_start_label_moves_the_bar_to_its_end(load):
    start, end = (load(HOURS, timezone="UTC", bar_label=label) for label in ("start", "end"))
    assert (start.time_us - end.time_us).tolist() == [3_600_000_000] * 50


def test_offsets_are_read_as_utc(load):
    bars = load([f"{hour}+02:00" for hour in HOURS])
    assert bars.describe_row(0) == "row 0 (2020-10-30T22:00:00Z)"


def test_mixed_time_zones_are_refused(load):
    mixed = [f"{hour}Z" for hour in HOURS[:20]] + [f"{hour}-04:00" for hour in HOURS[20:]]
    with pytest.raises(MarketError, match=r"prices.csv:22 .* one time zone \(Z, as in the first row\), was .* -04:00"):
        load(mixed)


def test_offsets_may_change_with_the_named_zone_and_not_otherwise(load):
    clocks_go_back = [f"{hour}-04:00" for hour in HOURS[:26]] + [f"{hour}-05:00" for hour in HOURS[25:]]
    assert len(load(clocks_go_back, timezone="America/New_York")) == 51
    with pytest.raises(MarketError, match=r"prices.csv:2 .* one time zone \(Europe/Berlin\)"):
        load(clocks_go_back, timezone="Europe/Berlin")


def test_naive_and_aware_stamps_do_not_mix(load):
    with pytest.raises(MarketError, match=r"prices.csv:3 .* one format throughout \(times with an offset"):
        load([f"{HOURS[0]}Z", *HOURS[1:]])


def test_an_unknown_zone_is_named(rules):
    for zone in ("Mars/Olympus", "../etc/passwd", ""):
        with pytest.raises(MarketError, match="timezone must be an IANA name"):
            rules(timezone=zone)


def test_a_daily_stamp_at_midnight_means_the_end_of_its_day(load):
    days = [f"2020-0{m}-{d:02}T00:00Z" for m in (1, 2) for d in range(1, 30)]
    load_days = partial(load, days, periods_per_year=365, max_gap="4d")
    assert load_days(bar_label=None).describe_row(0) == "row 0 (2020-01-02T00:00:00Z)"
    assert load_days(bar_label="start").describe_row(0) == "row 0 (2020-01-02T00:00:00Z)"
    assert load_days(bar_label="end").describe_row(0) == "row 0 (2020-01-01T00:00:00Z)"


def test_a_weekly_date_labelled_by_its_start_ends_when_the_next_begins(load):
    weeks = [str(np.datetime64("2020-01-06") + np.timedelta64(7 * i, "D")) for i in range(20)]
    bars = load(weeks, periods_per_year=52, bar_label="start", calendar="sessions", timezone="UTC")
    assert bars.describe_row(0) == "row 0 (2020-01-13T00:00:00Z)"
    assert bars.describe_row(19) == "row 19 (2020-05-25T00:00:00Z)"


def test_a_day_that_ends_at_an_hour_the_clock_skips_ends_later(load):
    days = [str(np.datetime64("2018-10-20") + np.timedelta64(i, "D")) for i in range(40)]
    bars = load(days, periods_per_year=365, timezone="America/Sao_Paulo")
    assert (np.diff(bars.time_us) > 0).all()
    assert bars.describe_row(14) == "row 14 (2018-11-04T03:00:00Z)"
