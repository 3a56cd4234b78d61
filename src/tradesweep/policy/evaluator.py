"""The evaluator: a policy, a constant or a script once over a split, on the training kernel, at one lane count.

Everything that is ever said about a policy comes from here: training-time evaluation, replay, promotion, stress
runs. The kernel always has `EVALUATION_LANES` lanes, one per run; a lane without a run stands still. Lanes do not see
each other, so a run gives the same bits alone and beside others.

A policy goes through its bars in one compiled loop (`passes.py`), a block of them at a time; bar by bar where the
reward is a part written in Python, since the next observation shows its state.

Legend: E lanes, N bars of the market, T = b - 1 - a steps of a split [a, b), B bars of a block, U different stretches,
H width of the first layers, A actions, S columns of state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.env import (
    EnvConfig,
    LogReturn,
    ObservationBuilder,
    Reward,
    Tape,
    build_kernel,
    build_observer,
    build_reward,
    list_runs,
)
from tradesweep.errors import BadInput, CheckpointError, NotFound
from tradesweep.metrics import LEAST_RETURNS, equity_returns, max_drawdown, sharpe, turnover
from tradesweep.names import EPISODE_STEP_BITS, SCORE_FLOOR, Draw, EpisodeRole, EvaluationStatus, Record
from tradesweep.policy.plain import PlainPolicy, check_finite

if TYPE_CHECKING:
    from tradesweep.market import Market, Split

EVALUATION_LANES = 4
"""Every evaluation of the project runs at this lane count."""
SHARPE_LIMIT = 10.0
BLOCK_BARS = 256
"""For so many bars at a time the policy's first layer reads the features, and the compiled loop runs."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
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
    bars: int | None = None
    """Run over the newest so many bars of the split that have all features and no gap; None: over the whole split."""
    seed: int | None = None
    """Draw actions from the softmax of the logits, from this seed and the pass's number; None: the greedy action."""
    recorded: bool = True
    """Has rows, when rows are asked for."""


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
    seed: int | None = None,
) -> Evaluation:
    """Run the policy once over a split: greedy, or sampled with a seed.

    `record` gives episode numbers; with it the evaluation has `records`. Raises TrialDiverged for observations or
    scores that are not finite, CheckpointError where policy and market do not fit, and as `check_evaluable`.
    """
    run = Run(split=split, cost_multiplier=cost_multiplier, role=role, seed=seed)
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
    evaluators = [
        Evaluator(market, config, runs[at : at + EVALUATION_LANES]) for at in range(0, len(runs), EVALUATION_LANES)
    ]
    passes = [evaluator.run(policy, record=record, weights_version=weights_version) for evaluator in evaluators]
    return [evaluation for found in passes for evaluation in found]


class Evaluator:
    """The same runs again and again, of one policy after the other: what no policy changes is built once."""

    def __init__(self, market: Market, config: EnvConfig, runs: Sequence[Run]) -> None:
        """At most `EVALUATION_LANES` runs. Raises as `check_evaluable`."""
        self._market, self._config, self._runs = market, config, runs
        self._lanes = _Lanes(market, config, runs, [_find_stretch(market, config.window_bars, run) for run in runs])
        self._observer = build_observer(
            market, config, lanes=EVALUATION_LANES, reward_state_size=self._lanes.reward.state_size
        )

    def run(
        self,
        policy: PlainPolicy,
        *,
        record: Callable[[], int] | None = None,
        weights_version: int = 0,
        number: int = 0,
    ) -> list[Evaluation]:
        """All runs of this policy in one pass, each as `evaluate` gives it; sampled ones draw anew for each number."""
        _check_fit(policy, self._market, self._config, self._observer)
        guide = _Guide(policy, self._observer, self._lanes, self._draw_noise(policy, number))
        self._lanes.begin(record)
        guide.follow()
        found = self._lanes.conclude(weights_version)
        guide.check()
        return found

    def _draw_noise(self, policy: PlainPolicy, number: int) -> Floats:
        """(T, E, A) Gumbel numbers in the lanes of sampled runs, 0 in the others; (0, E, A) where none is sampled."""
        seeds = {lane: run.seed for lane, run in enumerate(self._runs) if run.seed is not None}
        shape = (self._lanes.steps, len(self._config.positions))
        if not seeds:
            return np.zeros((0, EVALUATION_LANES, shape[1]))
        policy.check_samples()
        noise_TEA = np.zeros((shape[0], EVALUATION_LANES, shape[1]))
        for lane, seed in seeds.items():
            noise_TEA[:, lane] = np.random.default_rng([seed, Draw.EVALUATION, number]).gumbel(size=shape)
        return noise_TEA


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
    lanes = _Lanes(market, config, [Run(split=split, cost_multiplier=cost_multiplier)], [bounds])
    lanes.begin(None)
    while not lanes.all_done:
        lanes.kernel.step(targets_N.take(lanes.kernel.bar_E))
    return lanes.conclude(0)[0]


def raw_score(status: EvaluationStatus, sharpe_ratio: float | None) -> float:
    """What searcher, pruner and stopping see of one evaluation: the Sharpe clipped to +-10; 0 where undefined;
    -10 after ruin."""
    if status == EvaluationStatus.RUINED:
        return SCORE_FLOOR
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


def _find_stretch(market: Market, window_bars: int, run: Run) -> Split:
    """The bars of a run. Raises as `check_evaluable`."""
    if run.bars is None:
        check_evaluable(market, window_bars, run.split)
        return market.splits[run.split]
    bounds = get_split(market, run.split)
    unbroken = list_runs(market, run.split, window_bars)
    if not unbroken:
        raise BadInput(f"splits.{run.split} must have two bars in a row with all features, has none; start it later")
    start, stop = unbroken[-1]
    return replace(bounds, start=max(start, stop - run.bars), stop=stop)


def get_split(market: Market, split: str) -> Split:
    """The split of that name; raises NotFound."""
    if split not in market.splits:
        raise NotFound(f"split must be one of {', '.join(market.splits)}, was {split!r}")
    return market.splits[split]


class _Lanes:
    """One kernel, one lane per run, over the same stretches as often as one likes."""

    def __init__(self, market: Market, config: EnvConfig, runs: Sequence[Run], stretches: Sequence[Split]) -> None:
        self.config, self.runs = config, runs
        self._bars = market.bars
        idle = EVALUATION_LANES - len(runs)
        self._runs_E = np.arange(EVALUATION_LANES) < len(runs)
        self.start_E = np.array([stretch.start for stretch in stretches] + [0] * idle)
        self.stop_E = np.array([stretch.stop for stretch in stretches] + [0] * idle)
        self.steps = int((self.stop_E - self.start_E).max()) - 1
        multipliers = [run.cost_multiplier for run in runs] + [1.0] * idle
        self.kernel = build_kernel(market.bars, config, lanes=EVALUATION_LANES, cost_multipliers=multipliers)
        self.reward: Reward = build_reward(config.reward, config.reward_params)
        self.reward.allocate(self.kernel)
        self._numbers: Iterator[int] = iter(())
        roles = [run.role for run in runs] + [EpisodeRole.VALIDATION] * idle
        self._tape = Tape(next_episode_no=lambda: next(self._numbers), role=roles, rows=self.steps)
        self.kernel.record_to(self._tape)

    def begin(self, record: Callable[[], int] | None) -> None:
        """Every run at its first bar. Its episode's number is below zero where no row of it is asked for."""
        if not self.all_done:  # an earlier pass broke off: what it left is nobody's
            self.kernel.record_to(self._tape)
            self._tape.drain(0)
        self._episodes = [record() if record and run.recorded else -1 - lane for lane, run in enumerate(self.runs)]
        self._numbers = iter(self._episodes)
        self.kernel.reset(self._runs_E, self.start_E, self.stop_E)
        self.reward.reset(self._runs_E)

    @property
    def all_done(self) -> bool:
        """Every run has ended."""
        return self.kernel.any_done and bool(self.kernel.done_E.all())

    def take_reward(self) -> None:
        """Put the reward of the last step into its row."""
        row = self._tape.last_row()
        reward_E = self.reward(row, self.kernel)
        if reward_E is not row.reward:
            row.reward[:] = reward_E

    def conclude(self, weights_version: int) -> list[Evaluation]:
        """What every run gave."""
        ledger = _Ledger(self._tape.columns())
        records = self._tape.drain(weights_version)
        return [
            self._conclude(lane, ledger, _of_episode(records, number)) for lane, number in enumerate(self._episodes)
        ]

    def _conclude(self, lane: int, ledger: _Ledger, records: Records) -> Evaluation:
        run, steps = self.runs[lane], int(self.stop_E[lane] - self.start_E[lane]) - 1
        start = float(self.config.initial_equity)
        equity_T = ledger.equity(lane, steps)
        path = np.concatenate([[start], equity_T])
        returns_T = equity_returns(path)
        exposures_T = self._exposures(lane, ledger, steps)
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
            turnover=turnover(ledger.traded(lane, steps), path, self.config.periods_per_year),
            ruined=ruined,
            records=records if self._episodes[lane] >= 0 else None,
        )

    def _exposures(self, lane: int, ledger: _Ledger, steps: int) -> Floats:
        """u p / (M + u p), M the cash between this step's fill and its borrow charge at the open fill."""
        units, price, borrow = (ledger.take(name, lane, steps) for name in ("units", "price", "borrow"))
        close = self._bars.close[self.start_E[lane] + 1 : self.stop_E[lane]]
        charged_after = borrow if self.config.fill == "next_open" else 0.0
        equity = ledger.take("equity", lane, steps) + charged_after + units * (price - close)
        exposures_T = np.zeros(steps)
        np.divide(units * price, equity, out=exposures_T, where=equity > 0.0)
        return exposures_T


class _Ledger:
    """What the steps of a pass left behind, lane by lane."""

    def __init__(self, columns_TE: dict[str, NDArray[Any]]) -> None:
        self._columns_TE = columns_TE
        self._ran_E = columns_TE["active"].sum(axis=0)

    def take(self, name: str, lane: int, steps: int) -> Floats:
        """(T,) a column of one lane, 0 after it ended."""
        taken_T = np.zeros(steps)
        ran = self._ran_E[lane]
        taken_T[:ran] = self._columns_TE[name][:ran, lane]
        return taken_T

    def equity(self, lane: int, steps: int) -> Floats:
        """(T,) equity of one lane, which stays where it is after ruin."""
        equity_T, ran = self.take("equity", lane, steps), self._ran_E[lane]
        equity_T[ran:] = equity_T[ran - 1]
        return equity_T

    def traded(self, lane: int, steps: int) -> Floats:
        """(T,) value that both legs filled at the reference price."""
        traded_T = np.zeros(steps)
        ran = self._ran_E[lane]
        traded_T[:ran] = np.abs(self._columns_TE["quantity"][:ran, :, lane]).sum(axis=1)
        return traded_T * self.take("price", lane, steps)


class _Guide:
    """Leads a policy through the bars of its lanes."""

    def __init__(self, policy: PlainPolicy, observer: ObservationBuilder, lanes: _Lanes, noise_TEA: Floats) -> None:
        from tradesweep.policy.forward import ROWS
        from tradesweep.policy.passes import Sight, follow_policy

        assert EVALUATION_LANES == ROWS, f"all lanes go through the layers together, {ROWS} of them"
        self._policy, self._observer, self._lanes, self._noise_TEA = policy, observer, lanes, noise_TEA
        self._follow_policy, self._sight = follow_policy, Sight
        self._stretch_E, self._start_U, self._stop_U = _tell_stretches(lanes)
        self._sums_EX = np.zeros((EVALUATION_LANES, observer.state_width + policy.network.actions))

    def follow(self) -> None:
        """Step until every run has ended."""
        in_python = type(self._lanes.reward) is not LogReturn
        for t in range(0, self._lanes.steps, BLOCK_BARS):
            begun_BUH = self._begin_block(t)
            for at in range(0, len(begun_BUH), 1 if in_python else BLOCK_BARS):
                self._run_bars(t + at, begun_BUH[at : at + 1] if in_python else begun_BUH)
                if in_python:
                    self._lanes.take_reward()
                if self._lanes.all_done:
                    return

    def check(self) -> None:
        """Raise TrialDiverged if any number was not finite: it stays in a sum."""
        states = self._observer.state_width
        check_finite(self._sums_EX[:, :states], "observations")
        check_finite(self._sums_EX[:, states:], "scores")

    def _run_bars(self, t: int, begun_BUH: Floats) -> None:
        kernel, bars = self._lanes.kernel, len(begun_BUH)
        kernel.run(
            self._follow_policy,
            bars,
            self._sight(*self._observer.state_parts(kernel, self._lanes.reward.state_E())),
            self._policy.network,
            begun_BUH,
            self._stretch_E,
            self._noise_TEA[t : t + bars],
            self._sums_EX,
        )

    def _begin_block(self, t: int) -> Floats:
        """(B, U, H) what the features of each bar from t on add to the first layers."""
        steps = np.arange(t, min(t + BLOCK_BARS, self._lanes.steps))
        bars_BU = np.minimum(self._start_U + steps[:, None], self._stop_U - 2)
        begun = np.concatenate(self._policy.begin(self._observer.build_windows(bars_BU.ravel())), axis=1)
        return begun.reshape(*bars_BU.shape, -1)


def _tell_stretches(lanes: _Lanes) -> tuple[Ints, Ints, Ints]:
    """((E,) which stretch, (U,) first bars, (U,) ends): lanes over the same bars share what features give."""
    of_runs = [*zip(lanes.start_E.tolist(), lanes.stop_E.tolist(), strict=True)][: len(lanes.runs)]
    stretches = list(dict.fromkeys(of_runs))
    which = [stretches.index(stretch) for stretch in of_runs] + [0] * (EVALUATION_LANES - len(of_runs))
    start_U, stop_U = np.array(stretches, np.int64).T
    return np.array(which, np.int64), start_U, stop_U


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
