import numpy as np
import pytest

from tradesweep.errors import MarketError
from tradesweep.market.rules import (
    BarRules,
    check_bars,
    find_gaps,
    number_segments,
    parse_duration,
    robust_sigma,
)

WHERE = "here"
HOUR = 3_600_000_000
HOURLY = BarRules(periods_per_year=8766, fill="next_open", calendar="24x7")


def walk(n, seed=0, sigma=0.01):
    return 100 * np.cumprod(1 + sigma * np.random.default_rng(seed).standard_normal(n))


def test_clean_bars_pass(make_bars):
    check_bars(make_bars(walk(1000)), HOURLY, WHERE)


@pytest.mark.parametrize("ratio", [1 / 10, 1 / 3, 1 / 2, 2, 3, 10])
def test_an_unadjusted_split_is_refused_unless_allowed(make_bars, ratio):
    close = walk(1000)
    close[500:] *= ratio
    bars = make_bars(close)
    with pytest.raises(MarketError, match=r"row 500 .* must not move like an unadjusted split"):
        check_bars(bars, HOURLY, WHERE)
    check_bars(bars, BarRules(periods_per_year=8766, fill="next_open", calendar="24x7", allow_jumps=True), WHERE)


def test_a_crash_that_is_no_split_ratio_passes(make_bars):
    close = walk(1000)
    close[500:] *= 0.75
    check_bars(make_bars(close), HOURLY, WHERE)


def test_a_doubling_within_eight_sigmas_passes(make_bars):
    close = np.exp(np.cumsum(0.3 * np.random.default_rng(1).standard_normal(1000)))
    check_bars(make_bars(close), HOURLY, WHERE)


@pytest.mark.parametrize(("stated", "passes"), [(8766, True), (7300, True), (10500, True), (6900, False), (252, False)])
def test_periods_per_year_may_be_off_by_a_fifth(make_bars, stated, passes):
    bars, rules = make_bars(walk(1000)), BarRules(periods_per_year=stated, fill="next_open", calendar="24x7")
    if passes:
        check_bars(bars, rules, WHERE)
    else:
        with pytest.raises(MarketError, match="bars per year in the data"):
            check_bars(bars, rules, WHERE)


@pytest.mark.parametrize(
    ("share", "fill", "calendar", "passes"),
    [
        (0.3, "next_open", "sessions", False),
        (0.1, "next_open", "sessions", True),
        (0.3, "next_close", "sessions", True),
        (0.3, "next_open", "24x7", True),
    ],
)
def test_stale_opens_forbid_filling_at_the_open_of_a_session_market(make_bars, share, fill, calendar, passes):
    close = walk(1000)
    opened = np.concatenate((close[:1], close[:-1])) * 1.001
    stale = np.random.default_rng(2).random(1000) < share
    opened[stale] = np.concatenate((close[:1], close[:-1]))[stale]
    bars = make_bars(close, open=opened)
    rules = BarRules(periods_per_year=8766, fill=fill, calendar=calendar)
    if passes:
        check_bars(bars, rules, WHERE)
    else:
        with pytest.raises(MarketError, match=r"open must differ .* stale; set env.fill: next_close"):
            check_bars(bars, rules, WHERE)


def test_one_stale_year_among_good_ones_is_found(make_bars):
    days = np.busday_offset(np.datetime64("2018-01-02"), np.arange(780), roll="forward")
    close = walk(780)
    before = np.concatenate((close[:1], close[:-1]))
    opened = np.where(days.astype("datetime64[Y]") == np.datetime64("2019"), before, before * 1.001)
    bars = make_bars(close, open=opened, time_us=days.astype("datetime64[us]").astype(np.int64) + 21 * HOUR)
    with pytest.raises(MarketError, match="equal on 100% of 2019"):
        check_bars(bars, BarRules(periods_per_year=252, fill="next_open"), WHERE)


def test_bar_ends_must_increase_and_lie_in_a_markets_years(make_bars):
    bars = make_bars(walk(1000))
    for shift, message in (
        (-HOUR, r"here row 500 \(.*\) time must be later than that of row 499 .* was a duplicate"),
        (-2 * HOUR, r"here row 500 .* went back"),
        (10**16, r"here row 501 .* went back"),
    ):
        stamps = bars.time_us.copy()
        stamps[500] += shift
        with pytest.raises(MarketError, match=message):
            check_bars(make_bars(bars.close, time_us=stamps), HOURLY, WHERE)
    with pytest.raises(MarketError, match="in the years 1900 to 2200, was in 2336"):
        check_bars(make_bars(bars.close, time_us=bars.time_us + 10**16), HOURLY, WHERE)


# -- gaps


def without(bars, *rows):
    keep = np.setdiff1d(np.arange(len(bars)), rows)
    return {name: getattr(bars, name)[keep] for name in ("time_us", "open", "high", "low", "close", "volume")}


def test_missing_bars_are_listed_and_never_filled(make_bars):
    bars = make_bars(walk(1000))
    kept = without(bars, 10, 11, 30)
    broken = make_bars(kept.pop("close"), **kept)
    with pytest.raises(MarketError, match=r"missing about 3 bars: 2 after here row 9 .*; 1 after here row 27 "):
        check_bars(broken, HOURLY, WHERE)
    assert number_segments(997, find_gaps(broken, HOURLY))[[9, 10, 27, 28]].tolist() == [0, 1, 1, 2]


def test_a_stated_max_gap_is_no_gap(make_bars):
    kept = without(make_bars(walk(1000)), 10, 11)
    rules = BarRules(periods_per_year=8766, fill="next_open", calendar="24x7", max_gap="3h")
    check_bars(make_bars(kept.pop("close"), **kept), rules, WHERE)


def test_a_round_the_clock_market_has_no_bar_between_bars(make_bars):
    bars = make_bars(walk(1000))
    stamps = bars.time_us.copy()
    stamps[500] -= HOUR // 2
    with pytest.raises(MarketError, match=r"row 500 .* must be 1h after the bar before .*, was 30m"):
        check_bars(make_bars(bars.close, time_us=stamps), HOURLY, WHERE)


def weekdays_around_the_clock(weeks):
    """Hourly ends from Sunday 22:00 UTC to Friday 21:00 UTC."""
    first = np.datetime64("2020-01-05T23:00", "us").astype(np.int64)
    return np.concatenate([first + (week * 168 + np.arange(119)) * HOUR for week in range(weeks)])


def test_a_weekend_is_no_gap_in_a_weekday_market_but_a_lost_monday_is(make_bars):
    rules = BarRules(periods_per_year=6200, fill="next_open", calendar="24x5")
    stamps = weekdays_around_the_clock(8)
    check_bars(make_bars(walk(len(stamps)), time_us=stamps), rules, WHERE)
    lost = np.delete(stamps, np.arange(119, 143))
    with pytest.raises(MarketError, match=r"missing about 2\d bars"):
        check_bars(make_bars(walk(len(lost)), time_us=lost), rules, WHERE)


def sessions_with_lunch(days):
    """Half-hourly ends, 9:30 to 11:30 and 13:00 to 15:00, on business days."""
    ends = np.array([10, 10.5, 11, 11.5, 13.5, 14, 14.5, 15]) * HOUR
    dates = np.busday_offset(np.datetime64("2020-01-06"), np.arange(days), roll="forward")
    return (dates.astype("datetime64[us]").astype(np.int64)[:, None] + ends.astype(np.int64)).ravel()


def test_lunch_and_nights_are_no_gaps_in_a_session_market_but_a_lost_bar_is(make_bars):
    rules = BarRules(periods_per_year=2000, fill="next_open", bar_label="end")
    stamps = sessions_with_lunch(60)
    check_bars(make_bars(walk(len(stamps)), time_us=stamps), rules, WHERE)
    lost = np.delete(stamps, 8 * 20 + 2)
    with pytest.raises(MarketError, match=r"missing about 1 bars: 1 after here row 161 "):
        check_bars(make_bars(walk(len(lost)), time_us=lost), rules, WHERE)


def test_time_in_gaps_does_not_count_for_periods_per_year(make_bars):
    stamps = np.concatenate((np.arange(1, 800), np.arange(5000, 5800))) * HOUR + 1_577_836_800_000_000
    rules = BarRules(periods_per_year=8766, fill="next_open", calendar="24x7", gaps="split")
    check_bars(make_bars(walk(len(stamps)), time_us=stamps), rules, WHERE)


@pytest.mark.parametrize(
    ("text", "us"), [("7d", 168 * HOUR), ("36h", 36 * HOUR), ("1.5h", 3 * HOUR // 2), ("90m", 3 * HOUR // 2)]
)
def test_durations_are_read(text, us):
    assert parse_duration(text) == us


@pytest.mark.parametrize("text", ["7", "d", "-1d", "0d", "1w", "7 d", "1e3d", ""])
def test_other_durations_are_refused(text):
    with pytest.raises(MarketError, match="max_gap must be a number with s, m, h or d"):
        BarRules(periods_per_year=252, fill="next_open", max_gap=text)


def test_robust_sigma_is_the_standard_deviation_of_normal_data_despite_outliers():
    values = np.random.default_rng(0).standard_normal(100_000)
    values[:100] = 1e6
    assert robust_sigma(values) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("periods", [0, -252, float("nan")])
def test_periods_per_year_must_be_positive(periods):
    with pytest.raises(MarketError, match="periods_per_year must be > 0"):
        BarRules(periods_per_year=periods, fill="next_open")
