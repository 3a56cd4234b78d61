"""The evaluator: a policy, a constant or a script once over a split, on the training kernel, at one lane count.

Everything that is ever said about a policy comes from here: training-time evaluation, replay, promotion, stress
runs. The kernel always has `EVALUATION_LANES` lanes, one per run; lanes without a run stand still. Lanes do not see
each other, so a run gives the same bits alone and beside others.

Legend: E lanes, N bars of the market, T = b - 1 - a steps of a split [a, b).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.env import (
    EnvConfig,
    Kernel,
    ObservationBuilder,
    Reward,
    StepRow,
    Tape,
    build_kernel,
    build_observer,
    build_reward,
    list_runs,
)
from tradesweep.errors import BadInput, CheckpointError, NotFound
from tradesweep.metrics import LEAST_RETURNS, equity_returns, max_drawdown, sharpe, turnover
from tradesweep.names import EPISODE_STEP_BITS, EpisodeRole, EvaluationStatus, Record
from tradesweep.policy.plain import PlainPolicy

if TYPE_CHECKING:
    from tradesweep.market import Market, Split

EVALUATION_LANES = 4
"""Every evaluation of the project runs at this lane count."""
SHARPE_LIMIT = 10.0
RUIN_SCORE = -10.0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Records = dict[Record, dict[str, NDArray[Any] | list[Any]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of a policy over a split."""

    split: str
    """Name of the split."""
    cost_multiplier: float = 1.0
    """Factor on the environment's costs; a stress run has 2.0."""
    role: EpisodeRole = EpisodeRole.VALIDATION
    """What the recorded episode is for."""
    sampled: np.random.Generator | None = None
    """Draw actions from the softmax of the logits with this generator, instead of the greedy action."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """What one run over a split gave. After ruin the rest of the split returns 0, so T is the same for all."""

    split: str
    """Name of the split."""
    cost_multiplier: float
    """Factor on the environment's costs."""
    status: EvaluationStatus
    """OK, FLAT, TOO_SHORT or RUINED."""
    sharpe: float | None
    """Annualised, of `returns_T`; None where undefined."""
    score: float
    """Always finite: see `raw_score`; not averaged over evaluations."""
    bars: int
    """T."""
    initial_equity: float
    """E_start."""
    equity_T: Floats
    """(T,) equity at each mark, `initial_equity` not included."""
    returns_T: Floats
    """(T,) simple returns, from `initial_equity` on."""
    exposures_T: Floats
    """(T,) u p / equity at the reference price p, after that step's fill if there is one; 0 after ruin."""
    trades: int
    """Closed trades."""
    win_rate: float | None
    """Share of closed trades with a profit; None without one."""
    total_return: float
    """Final equity / E_start - 1."""
    pnl: float
    """Final equity - E_start."""
    final_equity: float
    """Equity at the last mark."""
    max_drawdown: float
    """max(1 - E / peak), the start included."""
    mean_exposure: float
    """Mean of `exposures_T`, signed."""
    turnover: float
    """Value traded a year in units of equity."""
    ruined: bool
    """The run was terminated by ruin."""
    records: Records | None
    """Rows of the run by record kind, when they were asked for."""

    def is_eligible(self, min_trades: int) -> bool:
        """May this policy be the best? Its Sharpe is defined, it traded enough and was not ruined."""
        return self.status == EvaluationStatus.OK and self.trades >= min_trades


def evaluate(
    policy: PlainPolicy,
    market: Market,
    config: EnvConfig,
    *,
    split: str,
    cost_multiplier: float = 1.0,
    record: Callable[[], int] | None = None,
    weights_version: int = 0,
    role: EpisodeRole = EpisodeRole.VALIDATION,
    sampled: np.random.Generator | None = None,
) -> Evaluation:
    """Run the policy once over a split: greedy, or sampled with a generator.

    `record` gives episode numbers; with it the evaluation has `records`. Raises TrialDiverged for observations or
    scores that are not finite, CheckpointError where policy and market do not fit, and as `check_evaluable`.
    """
    run = Run(split=split, cost_multiplier=cost_multiplier, role=role, sampled=sampled)
    return evaluate_many(policy, market, config, [run], record=record, weights_version=weights_version)[0]


def evaluate_many(
    policy: PlainPolicy,
    market: Market,
    config: EnvConfig,
    runs: Sequence[Run],
    *,
    record: Callable[[], int] | None = None,
    weights_version: int = 0,
) -> list[Evaluation]:
    """Several runs of one policy, `EVALUATION_LANES` at a time, in the order given; each as `evaluate` gives it."""
    for run in runs:
        check_evaluable(market, config.window_bars, run.split)
    found: list[Evaluation] = []
    for at in range(0, len(runs), EVALUATION_LANES):
        lanes = _Pass(market, config, runs[at : at + EVALUATION_LANES], record)
        found += lanes.run(_PolicyDecider(policy, market, lanes), weights_version)
    return found


def evaluate_constant(
    target: float, market: Market, config: EnvConfig, *, split: str, cost_multiplier: float = 1.0
) -> Evaluation:
    """Hold one target over a split: buy-and-hold is max(positions), flat is 0. Raises as `check_evaluable`."""
    targets_N = np.full(len(market.bars), target, dtype=np.float64)
    return evaluate_targets(targets_N, market, config, split=split, cost_multiplier=cost_multiplier)


def evaluate_targets(
    targets_N: Floats, market: Market, config: EnvConfig, split: str, *, cost_multiplier: float = 1.0
) -> Evaluation:
    """Follow a script: `targets_N[t]` is what is decided at the close of bar t, |target| <= 1.

    No feature is needed, but as everywhere no gap may be crossed. Raises as `check_evaluable`, and BadInput for
    targets out of range.
    """
    check_ungapped(market, split)
    targets_N = np.asarray(targets_N, dtype=np.float64)
    assert targets_N.shape == (len(market.bars),), f"one target per bar: {len(market.bars)}, had {targets_N.shape}"
    bounds = market.splits[split]
    wrong = np.flatnonzero(~(np.abs(targets_N[bounds.start : bounds.stop - 1]) <= 1.0))
    if len(wrong):
        bar = bounds.start + int(wrong[0])
        raise BadInput(f"targets must be in [-1, 1], was {targets_N[bar]} at bar {bar}")
    lanes = _Pass(market, config, [Run(split=split, cost_multiplier=cost_multiplier)], None)
    return lanes.run(_ScriptDecider(targets_N, lanes.kernel), 0)[0]


def raw_score(status: EvaluationStatus, sharpe_ratio: float | None) -> float:
    """What searcher, pruner and stopping see of one evaluation: the Sharpe clipped to +-10; 0 where undefined;
    -10 after ruin."""
    if status == EvaluationStatus.RUINED:
        return RUIN_SCORE
    return float(np.clip(sharpe_ratio, -SHARPE_LIMIT, SHARPE_LIMIT)) if sharpe_ratio is not None else 0.0


def check_ungapped(market: Market, split: str) -> None:
    """Raise NotFound for an unknown split, BadInput for one that crosses a gap: an evaluation is one episode."""
    bounds = get_split(market, split)
    segment = market.bars.segment[bounds.start : bounds.stop]
    if segment[0] != segment[-1]:
        bar = bounds.start + int(np.argmax(segment != segment[0]))
        raise BadInput(
            f"splits.{split} must lie between two gaps of the market (gaps: split), crosses one before bar {bar};"
            " no fill may cross a gap: choose another range, or gaps: allow"
        )


def check_evaluable(market: Market, window_bars: int, split: str) -> None:
    """As `check_ungapped`; and BadInput where a window reaches a bar without all features."""
    check_ungapped(market, split)
    bounds = market.splits[split]
    runs = list_runs(market, split, window_bars)
    if runs != [(bounds.start, bounds.stop)]:
        raise BadInput(
            f"splits.{split} must have a window of {window_bars} bars with all features at each of its bars"
            f" ({bounds.start} to {bounds.stop - 1}), has them in {runs}; start it later or shorten the features"
        )


def get_split(market: Market, split: str) -> Split:
    """The split of that name; raises NotFound."""
    if split not in market.splits:
        raise NotFound(f"split must be one of {', '.join(market.splits)}, was {split!r}")
    return market.splits[split]


Decision = tuple[Floats, Ints | None]
"""Targets (E,), and the actions (E,) that stand for them, if any."""


class _Pass:
    """One kernel, one lane per run, once over their splits."""

    def __init__(
        self, market: Market, config: EnvConfig, runs: Sequence[Run], record: Callable[[], int] | None
    ) -> None:
        self.config, self.runs = config, runs
        self._bars = market.bars
        self._splits = [market.splits[run.split] for run in runs]
        self._steps = [len(split) - 1 for split in self._splits]
        spare = EVALUATION_LANES - len(runs)
        self.kernel = build_kernel(
            market.bars,
            config,
            lanes=EVALUATION_LANES,
            cost_multipliers=[run.cost_multiplier for run in runs] + [1.0] * spare,
        )
        self.reward: Reward = build_reward(config.reward, config.reward_params)
        self.reward.allocate(self.kernel)
        self._recorded = record is not None
        self._tape = Tape(
            next_episode_no=record or count(1).__next__,
            role=[run.role for run in runs] + [EpisodeRole.VALIDATION] * spare,
            rows=max(*self._steps, 2),
        )
        self._ledger = _Ledger(max(self._steps))

    def run(self, decide: Callable[[Bools], Decision], weights_version: int) -> list[Evaluation]:
        """Step until every run has ended."""
        self._reset()
        numbers = [number for number, _ in self._tape.positions()]
        kernel = self.kernel
        while not kernel.done_E.all():
            targets_E, actions_E = decide(~kernel.done_E)
            row = kernel.step(targets_E, actions_E=actions_E)
            np.copyto(row.reward, self.reward(row, kernel))
            self._ledger.note(row)
        records = self._tape.drain(weights_version)
        return [self._conclude(lane, _of_episode(records, numbers[lane])) for lane in range(len(self.runs))]

    def _reset(self) -> None:
        lanes_E = np.arange(EVALUATION_LANES) < len(self.runs)
        bounds_2E = np.zeros((2, EVALUATION_LANES), np.int64)
        bounds_2E[:, : len(self.runs)] = [[s.start for s in self._splits], [s.stop for s in self._splits]]
        self.kernel.record_to(self._tape)
        self.kernel.reset(lanes_E, *bounds_2E)
        self.reward.reset(lanes_E)

    def _conclude(self, lane: int, records: Records) -> Evaluation:
        run, split, steps = self.runs[lane], self._splits[lane], self._steps[lane]
        start = float(self.config.initial_equity)
        equity_T = self._ledger.equity(lane, steps)
        path = np.concatenate([[start], equity_T])
        returns_T = equity_returns(path)
        exposures_T = self._exposures(lane, split)
        closing = {name: column[0] for name, column in records[Record.EPISODES_CLOSED].items()}
        ruined = bool(closing["ruined"])
        ratio = sharpe(returns_T, self.config.periods_per_year)
        status = _status(ruined, ratio, steps)
        return Evaluation(
            split=run.split,
            cost_multiplier=run.cost_multiplier,
            status=status,
            sharpe=ratio,
            score=raw_score(status, ratio),
            bars=steps,
            initial_equity=start,
            equity_T=equity_T,
            returns_T=returns_T,
            exposures_T=exposures_T,
            trades=int(closing["trades"]),
            win_rate=float(closing["win_rate"]) if closing["trades"] else None,
            total_return=float(equity_T[-1] / start - 1.0),
            pnl=float(equity_T[-1] - start),
            final_equity=float(equity_T[-1]),
            max_drawdown=max_drawdown(path),
            mean_exposure=float(exposures_T.mean()),
            turnover=turnover(self._ledger.take("traded", lane, steps), path, self.config.periods_per_year),
            ruined=ruined,
            records=records if self._recorded else None,
        )

    def _exposures(self, lane: int, split: Split) -> Floats:
        """u p / (M + u p), M the cash between this step's fill and its borrow charge at the open fill."""
        units, price, borrow = (self._ledger.take(name, lane, len(split) - 1) for name in ("units", "price", "borrow"))
        close = self._bars.close[split.start + 1 : split.stop]
        charged_after = borrow if self.config.fill == "next_open" else 0.0
        equity = self._ledger.take("equity", lane, len(split) - 1) + charged_after + units * (price - close)
        exposures_T = np.zeros(len(units))
        np.divide(units * price, equity, out=exposures_T, where=equity > 0.0)
        return exposures_T


class _Ledger:
    """(T, E) columns of what the steps left behind."""

    NAMES = ("equity", "units", "price", "borrow", "traded", "active")

    def __init__(self, steps: int) -> None:
        self._columns_TE = {name: np.zeros((steps, EVALUATION_LANES)) for name in self.NAMES}
        self._used = 0

    def note(self, row: StepRow) -> None:
        """Copy a step."""
        for name in ("equity", "units", "price", "borrow", "active"):
            self._columns_TE[name][self._used] = getattr(row, name)
        self._columns_TE["traded"][self._used] = np.abs(row.quantity).sum(axis=0) * row.price
        self._used += 1

    def take(self, name: str, lane: int, steps: int) -> Floats:
        """(T,) a column of one lane, 0 after it ended."""
        return self._columns_TE[name][:steps, lane] * self._columns_TE["active"][:steps, lane]

    def equity(self, lane: int, steps: int) -> Floats:
        """(T,) equity of one lane, which stays where it is after ruin."""
        ran = int(self._columns_TE["active"][:, lane].sum())
        equity_T = self._columns_TE["equity"][:steps, lane].copy()
        equity_T[ran:] = equity_T[ran - 1]
        return equity_T


class _PolicyDecider:
    """Shows the policy what a runner would see, one row per running lane."""

    def __init__(self, policy: PlainPolicy, market: Market, lanes: _Pass) -> None:
        config = lanes.config
        self._policy, self._kernel, self._reward, self._runs = policy, lanes.kernel, lanes.reward, lanes.runs
        self._positions_A = np.array(config.positions, dtype=np.float64)
        self._observer = build_observer(
            market, config, lanes=EVALUATION_LANES, reward_state_size=lanes.reward.state_size
        )
        _check_fit(policy, market, config, self._observer)

    def __call__(self, active_E: Bools) -> Decision:
        rows_ED = self._observer.build(self._kernel, self._reward.state_E())
        actions_E = np.zeros(EVALUATION_LANES, np.int64)
        for lane in np.flatnonzero(active_E).tolist():
            generator, row_1D = self._runs[lane].sampled, rows_ED[lane : lane + 1]
            chosen = self._policy.sample(row_1D, generator) if generator else self._policy.act(row_1D)
            actions_E[lane] = chosen[0]
        return self._positions_A[actions_E], actions_E


class _ScriptDecider:
    """Reads the target off a script."""

    def __init__(self, targets_N: Floats, kernel: Kernel) -> None:
        self._targets_N, self._kernel = targets_N, kernel

    def __call__(self, active_E: Bools) -> Decision:
        return np.where(active_E, self._targets_N[self._kernel.bar_E], 0.0), None


def _status(ruined: bool, ratio: float | None, steps: int) -> EvaluationStatus:
    if ruined:
        return EvaluationStatus.RUINED
    if steps < LEAST_RETURNS:
        return EvaluationStatus.TOO_SHORT
    return EvaluationStatus.FLAT if ratio is None else EvaluationStatus.OK


def _of_episode(records: Records, episode_no: int) -> Records:
    """The rows of one episode."""
    found: Records = {}
    for kind, columns in records.items():
        owner = (
            columns["episode_no"] if "episode_no" in columns else np.asarray(columns["step_id"]) >> EPISODE_STEP_BITS
        )
        index = np.flatnonzero(np.asarray(owner, dtype=np.int64) == episode_no)
        found[kind] = {name: _take(column, index) for name, column in columns.items()}
    return found


def _take(column: NDArray[Any] | list[Any], index: NDArray[np.intp]) -> NDArray[Any] | list[Any]:
    return [column[i] for i in index] if isinstance(column, list) else column[index]


def _check_fit(policy: PlainPolicy, market: Market, config: EnvConfig, observer: ObservationBuilder) -> None:
    """The policy must see what it was trained on: the same columns, scaled alike, and the same actions."""
    spec = policy.spec
    facts = {
        "positions": (spec.env.positions, tuple(config.positions)),
        "window_bars": (spec.env.window_bars, config.window_bars),
        "features": (spec.feature_names, tuple(market.feature_names)),
        "observation": (spec.observation, tuple(observer.layout())),
        "scaler mean": (spec.scaler_mean, tuple(market.scaler.mean_F.tolist())),
        "scaler std": (spec.scaler_std, tuple(market.scaler.std_F.tolist())),
    }
    for name, (trained, given) in facts.items():
        if trained != given:
            raise CheckpointError(f"policy: {name} must be those it was trained with, {trained}, were {given}")
