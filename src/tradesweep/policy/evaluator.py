"""The evaluator: a policy, a constant or a script once over a split, on the training kernel, at one lane count.

Everything that is ever said about a policy comes from here: training-time evaluation, replay, promotion, stress
runs. The kernel always has `EVALUATION_LANES` lanes, one per run; a lane without a run shadows the first one, since a
lane that stands still costs more. Lanes do not see each other, so a run gives the same bits alone and beside others.

Legend: E lanes, N bars of the market, T = b - 1 - a steps of a split [a, b), A actions, S columns of state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.env import (
    EnvConfig,
    Kernel,
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
from tradesweep.policy.plain import Begun, PlainPolicy, check_finite

if TYPE_CHECKING:
    from tradesweep.market import Market, Split

EVALUATION_LANES = 4
"""Every evaluation of the project runs at this lane count."""
SHARPE_LIMIT = 10.0
BLOCK_BARS = 256
"""For so many bars at a time the policy's first layer reads the features."""

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
        decide = _PolicyDecider(policy, self._observer, self._lanes, self._draw_noise(policy, number))
        found = self._lanes.run(decide, record, weights_version)
        decide.check()
        return found

    def _draw_noise(self, policy: PlainPolicy, number: int) -> Floats | None:
        """(T, E, A) Gumbel numbers in the lanes of sampled runs, 0 in the others; None where nothing is sampled."""
        seeds = {lane: run.seed for lane, run in enumerate(self._runs) if run.seed is not None}
        if not seeds:
            return None
        policy.check_samples()
        shape = (self._lanes.steps, len(self._config.positions))
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
    return lanes.run(_ScriptDecider(targets_N, lanes.kernel), None, 0)[0]


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


Decision = tuple[Floats, Ints | None]
"""Targets (E,), and the actions (E,) that stand for them, if any."""


class _Lanes:
    """One kernel, one lane per run, over the same stretches as often as one likes."""

    def __init__(self, market: Market, config: EnvConfig, runs: Sequence[Run], stretches: Sequence[Split]) -> None:
        self.config, self.runs = config, runs
        self._bars = market.bars
        shadows = [(runs[0], stretches[0])] * (EVALUATION_LANES - len(runs))
        lanes = [*zip(runs, stretches, strict=True), *shadows]
        self.start_E = np.array([stretch.start for _, stretch in lanes])
        self.stop_E = np.array([stretch.stop for _, stretch in lanes])
        self.steps = int((self.stop_E - self.start_E).max()) - 1
        self.kernel = build_kernel(
            market.bars, config, lanes=EVALUATION_LANES, cost_multipliers=[run.cost_multiplier for run, _ in lanes]
        )
        self.reward: Reward = build_reward(config.reward, config.reward_params)
        self.reward.allocate(self.kernel)
        self._numbers: Iterator[int] = iter(())
        self._tape = Tape(
            next_episode_no=lambda: next(self._numbers), role=[run.role for run, _ in lanes], rows=self.steps + 1
        )
        self.kernel.record_to(self._tape)

    def run(
        self, decide: Callable[[int], Decision], record: Callable[[], int] | None, weights_version: int
    ) -> list[Evaluation]:
        """Step until every run has ended."""
        episodes = self._begin(record)
        kernel, reward = self.kernel, self.reward
        for t in range(self.steps):
            targets_E, actions_E = decide(t)
            row = kernel.step(targets_E, actions_E=actions_E)
            reward_E = reward(row, kernel)
            if reward_E is not row.reward:
                row.reward[:] = reward_E
            if kernel.any_done and kernel.done_E.all():
                break
        ledger = _Ledger(self._tape.columns())
        records = self._tape.drain(weights_version)
        return [self._conclude(lane, ledger, _of_episode(records, episodes[lane])) for lane in range(len(self.runs))]

    def _begin(self, record: Callable[[], int] | None) -> list[int]:
        """All lanes at their first bar. Numbers of their episodes: below zero where no row of them is asked for."""
        episodes = [record() if record and run.recorded else -1 - lane for lane, run in enumerate(self.runs)]
        self._recorded = [number >= 0 for number in episodes]
        self._numbers = iter(episodes + [-1 - lane for lane in range(len(self.runs), EVALUATION_LANES)])
        if not self.kernel.done_E.all():  # an earlier pass broke off: what it left is nobody's
            self.kernel.record_to(self._tape)
            self._tape.drain(0)
        everyone_E = np.ones(EVALUATION_LANES, np.bool_)
        self.kernel.reset(everyone_E, self.start_E, self.stop_E)
        self.reward.reset(everyone_E)
        return episodes

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
            records=records if self._recorded[lane] else None,
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


class _PolicyDecider:
    """Shows the policy what a runner would see, all lanes at once."""

    def __init__(
        self, policy: PlainPolicy, observer: ObservationBuilder, lanes: _Lanes, noise_TEA: Floats | None
    ) -> None:
        self._policy, self._observer, self._lanes, self._noise_TEA = policy, observer, lanes, noise_TEA
        self._positions_A = np.array(lanes.config.positions, dtype=np.float64)
        self._begun: list[Begun] = []
        self._scores_EA = np.zeros((EVALUATION_LANES, len(self._positions_A)))
        self._states_ES = np.zeros((EVALUATION_LANES, observer.width - observer.window_width))

    def __call__(self, t: int) -> Decision:
        if t % BLOCK_BARS == 0:
            self._begun = self._begin_block(t)
        lanes = self._lanes
        states_ES = self._observer.build_states(lanes.kernel, lanes.reward.state_E()).astype(np.float64)
        if lanes.kernel.any_done:
            states_ES[lanes.kernel.done_E] = 0.0  # nobody asks what a lane that ended would do
        scores_EA = self._policy.finish(self._begun[t % BLOCK_BARS], states_ES)
        self._states_ES += states_ES
        self._scores_EA += scores_EA
        if self._noise_TEA is not None:
            scores_EA = scores_EA + self._noise_TEA[t]
        actions_E = scores_EA.argmax(1)
        return self._positions_A.take(actions_E), actions_E

    def check(self) -> None:
        """Raise TrialDiverged if any number was not finite: it stays in a sum."""
        check_finite(self._states_ES, "observations")
        check_finite(self._scores_EA, "scores")

    def _begin_block(self, t: int) -> list[Begun]:
        """What the features of each bar from t on add to the first layers; lanes share bars."""
        bars_BE = np.minimum(self._lanes.start_E + np.arange(t, t + BLOCK_BARS)[:, None], self._lanes.stop_E - 2)
        bars, place = np.unique(bars_BE, return_inverse=True)
        parts = self._policy.begin(self._observer.build_windows(bars))
        return list(zip(*(part[place.reshape(bars_BE.shape)] for part in parts), strict=True))


class _ScriptDecider:
    """Reads the target off a script."""

    def __init__(self, targets_N: Floats, kernel: Kernel) -> None:
        self._targets_N, self._kernel = targets_N, kernel

    def __call__(self, t: int) -> Decision:  # noqa: ARG002 - a decider's signature
        return self._targets_N.take(self._kernel.bar_E), None


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
