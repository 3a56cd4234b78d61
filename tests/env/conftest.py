"""Markets to try things on, and the equations of the environment page once more: slow, scalar, independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pytest

from tradesweep.env import Costs, EnvConfig, Kernel, Tape
from tradesweep.market import Bars, Market, Scaler, Split

DAY_US = 86_400_000_000


def make_bars(opens: Sequence[float], closes: Sequence[float], *, dead: Sequence[int] = (), gaps: Sequence[int] = ()):
    """Bars with these opens and closes; `dead` bars are not tradable, a new segment begins at each of `gaps`."""
    opens, closes = np.array(opens, float), np.array(closes, float)
    n_bars = len(opens)
    tradable, segment = np.ones(n_bars, bool), np.zeros(n_bars, np.int32)
    tradable[list(dead)] = False
    for gap in gaps:
        segment[gap:] += 1
    return Bars(
        time_us=np.arange(n_bars) * DAY_US + 946_684_800_000_000,
        open=opens,
        high=np.maximum(opens, closes),
        low=np.minimum(opens, closes),
        close=closes,
        volume=np.ones(n_bars),
        tradable=tradable,
        segment=segment,
    )


def make_random_bars(seed: int, n_bars: int = 60, *, sigma: float = 0.03, dead: int = 0, gaps: Sequence[int] = ()):
    """A wild random walk with gaps between close and open, so that a short can be ruined."""
    rng = np.random.default_rng(seed)
    moves = rng.standard_normal((n_bars, 2)) * sigma
    moves[rng.random(n_bars) < 0.03, 0] += 0.6
    path = 100.0 * np.exp(np.cumsum(moves.ravel())).reshape(n_bars, 2)
    return make_bars(path[:, 0], path[:, 1], dead=rng.integers(0, n_bars, dead), gaps=gaps)


def make_market(bars: Bars, *, n_features: int = 3, first_valid: int = 0, seed: int = 0, splits=None) -> Market:
    features = np.random.default_rng(seed).standard_normal((len(bars), n_features)).astype(np.float32)
    features[:first_valid] = np.nan
    features.flags.writeable = False
    splits = splits or {"train": Split(name="train", start=0, stop=len(bars))}
    return Market(
        bars=bars,
        feature_names=tuple(f"f{i}" for i in range(n_features)),
        features_NF=features,
        first_valid=first_valid,
        splits=splits,
        scaler=Scaler(mean_F=np.zeros(n_features), std_F=np.ones(n_features)),
        instrument="test",
        source="test",
        periods_per_year=252.0,
        sha256="0" * 64,
        reward_scale_auto=50.0,
    )


def make_config(**changes) -> EnvConfig:
    costs = Costs(fee_bps=10, slippage_bps=5, borrow_bps_per_year=252)
    settings = {"fill": "next_open", "costs": costs, "periods_per_year": 252.0, "episode_bars": 20, "window_bars": 3}
    return EnvConfig(**(settings | changes))


def make_kernel(bars: Bars, config: EnvConfig, *, lanes: int = 1, costs=None) -> Kernel:
    return Kernel(
        bars,
        costs=costs or config.costs,
        fill=config.fill,
        lanes=lanes,
        initial_equity=config.initial_equity,
        ruin_fraction=config.ruin_fraction,
        periods_per_year=config.periods_per_year,
        extra_delay_bars=config.extra_delay_bars,
    )


@dataclass
class Leg:
    quantity: float
    price: float
    fee: float
    slippage: float
    operation: str
    trade_no: int


@dataclass
class SlowStep:
    t: int
    bar: int
    equity: float
    units: float
    target: float
    reward: float
    cost: float
    borrow: float
    fill_price: float | None
    legs: list[Leg]
    terminated: bool
    truncated: bool


@dataclass
class SlowTrade:
    direction: str
    entry_t: int
    status: str = "OPEN"
    exit_t: int = -1
    entries: list[Leg] = field(default_factory=list)
    exits: list[Leg] = field(default_factory=list)
    borrow: float = 0.0
    rest: float = 0.0

    @property
    def pnl(self) -> float:
        return sum(-leg.quantity * leg.price - leg.fee for leg in self.entries + self.exits) - self.borrow + self.rest


class SlowEpisode:
    """One episode, step by step, from the equations; `corruption` plants one of the page's traps."""

    def __init__(self, bars: Bars, config: EnvConfig, start: int, stop: int, corruption: str = "") -> None:
        self.bars, self.config, self.corruption = bars, config, corruption
        self.t, self.stop, self.start = start, stop, start
        self.M, self.u, self.g = config.initial_equity, 0.0, 0.0
        self.E = config.initial_equity
        self.V = config.initial_equity
        self.opened_at = 0
        self.B = config.costs.borrow_bps_per_year / 1e4 / config.periods_per_year
        self.R = config.ruin_fraction * config.initial_equity
        self.decided: list[float] = []
        self.trades: list[SlowTrade] = []
        self.steps: list[SlowStep] = []
        self.proceeds = 0.0
        self.done = False

    # the page's quantities
    @property
    def f(self) -> float:
        return self.config.costs.fee_bps / 1e4 * self.config.costs.multiplier

    @property
    def s(self) -> float:
        return self.config.costs.slippage_bps / 1e4 * self.config.costs.multiplier

    @property
    def c_buy(self) -> float:
        return self.s + self.f if self.corruption == "fee_on_mid" else (1 + self.s) * (1 + self.f) - 1

    @property
    def c_sell(self) -> float:
        return self.s + self.f if self.corruption == "fee_on_mid" else 1 - (1 - self.s) * (1 - self.f)

    def leg(self, units: float, p: float, entering: bool) -> None:
        sign = 1.0 if units > 0 else -1.0
        price = p * (1 + sign * self.s)
        fee = self.f * abs(units) * (p if self.corruption == "fee_on_mid" else price)
        side = "LONG" if (units > 0) == entering else "SHORT"
        if entering and self.u == 0.0:
            self.trades.append(SlowTrade(direction=side, entry_t=self.t - self.start))
        trade = self.trades[-1]
        leg = Leg(
            units,
            price,
            fee,
            self.s * abs(units) * p,
            f"{'ENTRY' if entering else 'EXIT'}_{side}",
            len(self.trades) - 1,
        )
        (trade.entries if entering else trade.exits).append(leg)
        self.legs.append(leg)

    def trade(self, p: float, k: float) -> None:
        V = self.M + self.u * p
        if V <= self.R:
            k = 0.0
        if k == self.g and self.corruption != "units_recomputed":
            return
        closing_cost = 0.0
        V_before = V
        if self.u != 0 and k * self.u <= 0:
            c = self.c_sell if self.u > 0 else self.c_buy
            closing_cost = abs(self.u) * p * c
            self.leg(-self.u, p, entering=False)
            self.trades[-1].status, self.trades[-1].exit_t = "CLOSED", self.t - self.start
            self.M += self.u * p - closing_cost
            self.u = 0.0
        if k != 0:
            V = V_before if self.corruption == "sized_before_closing" else self.M + self.u * p
            if self.u == 0.0:
                self.V, self.opened_at = V, self.t + 1
            x = k * V - self.u * p
            c = self.c_buy if x > 0 else self.c_sell
            if self.corruption == "fee_once" and closing_cost:
                c = 0.0
            D = x / (1 + k * math.copysign(1, x) * c)
            if D != 0:
                self.leg(D / p, p, entering=D * (self.u or D) > 0)
            self.M -= D + abs(D) * c
            self.u += D / p
            self.proceeds = abs(D) if self.u < 0 else 0.0
            self.paid += abs(D) * c
        self.paid += closing_cost
        self.g = k

    def charge_borrow(self, close: float) -> float:
        rate, value = self.B, max(-self.u, 0.0) * close
        if self.corruption == "borrow_on_proceeds" and self.u < 0:
            value = self.proceeds
        if self.corruption == "borrow_by_days":
            days = (self.bars.time_us[self.t + 1] - self.bars.time_us[self.t]) / DAY_US
            rate = self.config.costs.borrow_bps_per_year / 1e4 / 365 * days
        charge = rate * self.config.costs.multiplier * value
        self.M -= charge
        if charge:
            self.trades[-1].borrow += charge
        return charge

    def step(self, wanted: float) -> SlowStep:
        config, j = self.config, self.t + 1
        O, C = float(self.bars.open[j]), float(self.bars.close[j])  # noqa: E741 - the page's names
        self.legs, self.paid = [], 0.0
        self.decided.append(wanted)
        d = config.extra_delay_bars
        k = self.decided[-1 - d] if len(self.decided) > d else 0.0
        last = j == self.stop - 1
        tradable = bool(self.bars.tradable[j])
        p = O if config.fill == "next_open" else C
        if config.fill == "next_open":
            if self.corruption == "fill_at_close_t":
                p = float(self.bars.close[self.t])
            if tradable:
                self.trade(p, k)
            borrow = self.charge_borrow(C)
        else:
            borrow = self.charge_borrow(C)
            allowed = not last or self.corruption == "fill_beyond_split"
            if self.M + self.u * C > self.R and allowed and tradable:
                self.trade(p, k)
        E = self.M + self.u * (O if self.corruption == "marked_at_open" else C)
        if self.corruption == "equity_clipped":
            E = max(E, 0.0)
        if self.corruption == "ruin_escapes" and E <= self.R:
            E = self.R
        floor = -math.inf if self.corruption == "log_unguarded" else 1e-3 * config.initial_equity
        inside = max(E, floor) / self.E
        reward = math.log(inside) if inside > 0 else math.nan
        terminated = E <= self.R
        self.done = terminated or last
        step = SlowStep(
            t=self.t - self.start,
            bar=self.t,
            equity=E,
            units=self.u,
            target=self.g,
            reward=reward,
            cost=self.paid + borrow,
            borrow=borrow,
            fill_price=p if self.legs else None,
            legs=self.legs,
            terminated=terminated,
            truncated=last and not terminated,
        )
        if self.done and self.u != 0:
            self.trades[-1].status, self.trades[-1].exit_t = "MARKED", step.t
            self.trades[-1].rest = self.u * C
        self.E, self.t = E, j
        self.steps.append(step)
        return step

    def run(self, targets: Sequence[float]) -> SlowEpisode:
        for target in targets:
            if self.done:
                break
            self.step(float(target))
        return self


class Toolbox:
    """What the tests of this room share."""

    bars = staticmethod(make_bars)
    random_bars = staticmethod(make_random_bars)
    market = staticmethod(make_market)
    config = staticmethod(make_config)
    kernel = staticmethod(make_kernel)
    slow = SlowEpisode

    @staticmethod
    def tape(**changes) -> Tape:
        return Tape(**({"next_episode_no": count(1).__next__} | changes))

    @staticmethod
    def start(kernel: Kernel, starts, stops) -> None:
        kernel.reset(np.ones(kernel.lanes, bool), np.array(starts), np.array(stops))


@pytest.fixture(scope="session")
def box() -> Toolbox:
    return Toolbox()
