"""The look-ahead proof, in two parts.

1. Features of `bars[:t]` equal those of all bars, for every t or for 256 stratified cuts plus split edges.
2. The scaler does not change when the bars after train become noise.

A feature that peeks shows it at the newest bars of a prefix, where the future is missing; so there the last
rows are compared, and at split edges the whole prefix.
Legend: N bars, F features; a cut t keeps the bars 0..t-1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tradesweep.errors import MarketError
from tradesweep.market.bars import Bars, Floats
from tradesweep.market.features import FeatureBuilder, FeatureRequest, FeatureTable, compute_features
from tradesweep.market.scaling import Scaler
from tradesweep.market.splits import Split

CUTS = 256
LAST_ROWS = 3
TOLERANCE = 1e-12
"""Of a column's largest value: room for the last bit, which may depend on an array's length."""
NOISE_SIGMA = 0.05

FitScaler = Callable[[Floats, Split], Scaler]


@dataclass(frozen=True, kw_only=True, slots=True)
class LookaheadVerdict:
    """What the proof found."""

    cuts: int
    """Prefixes compared."""
    columns: int
    """Feature columns compared."""
    problems: tuple[str, ...]
    """One message for each column that sees the future, and for a scaler that does; empty when causal."""

    @property
    def passed(self) -> bool:
        """True when nothing sees the future."""
        return not self.problems

    def check(self) -> None:
        """Raise `MarketError` with the first problem."""
        if self.problems:
            raise MarketError(self.problems[0])


def prove_causal(
    bars: Bars,
    features: Sequence[FeatureRequest],
    *,
    splits: Mapping[str, Split],
    plugins: Mapping[str, FeatureBuilder] | None = None,
    cuts: int = CUTS,
    fit: FitScaler = Scaler.fit,
) -> LookaheadVerdict:
    """Prove that no feature and no scaling parameter depends on the future; `splits` must hold `train`.

    The cuts are drawn by a fixed generator: the same bars give the same verdict.
    """
    full = compute_features(bars, features, plugins)
    edges = sorted({at for split in splits.values() for at in (split.start, split.stop) if 0 < at < len(bars)})
    chosen = choose_cuts(len(bars), cuts, [*edges, full.first_valid, full.first_valid + 1])
    problems: dict[str, str] = {}
    for cut in chosen:
        first_row = 0 if cut in edges else max(0, cut - LAST_ROWS)
        for name, message in _compare_prefix(bars, features, plugins, full, cut, first_row):
            problems.setdefault(name, message)
    scaling = _compare_scalers(bars, features, plugins, full, splits["train"], fit)
    return LookaheadVerdict(cuts=len(chosen), columns=len(full.names), problems=(*problems.values(), *scaling))


def choose_cuts(n_bars: int, cuts: int, wanted: Sequence[int] = ()) -> list[int]:
    """Every t from 1 to N-1, or `cuts` of them, one in each equal stretch, plus the wanted ones."""
    if n_bars - 1 <= cuts:
        return list(range(1, n_bars))
    borders = np.linspace(1, n_bars, cuts + 1).astype(np.int64)
    drawn = np.random.default_rng(0).integers(borders[:-1], borders[1:])
    return sorted({*drawn.tolist(), *(at for at in wanted if 0 < at < n_bars)})


def noise_after(bars: Bars, stop: int) -> Bars:
    """The same bars up to `stop`; after it prices, volume and columns are noise."""
    rng = np.random.default_rng(1)
    n = len(bars) - stop
    walk_n = bars.close[stop - 1] * np.exp(np.cumsum(NOISE_SIGMA * rng.standard_normal((n, 2)), axis=0))
    spread_n = 1.0 + NOISE_SIGMA * rng.random(n)
    noise: dict[str, Floats] = {
        "open": walk_n[:, 0],
        "high": walk_n.max(axis=1) * spread_n,
        "low": walk_n.min(axis=1) / spread_n,
        "close": walk_n[:, 1],
        "volume": rng.random(n),
    }
    columns: dict[str, Any] = {name: np.concatenate((getattr(bars, name)[:stop], noise[name])) for name in noise}
    extra = {key: np.concatenate((col[:stop], rng.standard_normal(n))) for key, col in bars.extra.items()}
    return replace(bars, extra=extra, **columns)


def _compare_prefix(
    bars: Bars,
    features: Sequence[FeatureRequest],
    plugins: Mapping[str, FeatureBuilder] | None,
    full: FeatureTable,
    cut: int,
    first_row: int,
) -> list[tuple[str, str]]:
    """(column, message) of every column that differs on rows `first_row` to `cut` - 1."""
    part = compute_features(bars[:cut], features, plugins)
    known_MF, truth_MF = part.values_NF[first_row:], full.values_NF[first_row:cut]
    if part.names != full.names:
        return [("", f"features must have the same names on every prefix, were {part.names} at cut {cut}")]
    equal_MF = _nearly_equal(known_MF, truth_MF)
    if equal_MF.all():
        return []
    return [
        (
            full.names[f],
            _describe(bars, full.names[f], first_row, equal_MF[:, f], known_MF[:, f], truth_MF[:, f], cut),
        )
        for f in np.flatnonzero(~equal_MF.all(axis=0))
    ]


def _describe(
    bars: Bars, name: str, first_row: int, equal_M: np.ndarray, known_M: Floats, truth_M: Floats, cut: int
) -> str:
    m = int((~equal_M).argmax())
    return (
        f"feature {name} must not see the future: at {bars.describe_row(first_row + m)} it is"
        f" {truth_M[m]:.6g} with all"
        f" bars but {known_M[m]:.6g} when bars from row {cut} on are taken away; use only bars up to"
        " t at row t"
    )


def _nearly_equal(known_MF: Floats, truth_MF: Floats) -> np.ndarray:
    """(M, F) equal bits, both NaN, or apart by the last bit only."""
    same_MF = (known_MF == truth_MF) | (np.isnan(known_MF) & np.isnan(truth_MF))
    if same_MF.all():
        return np.asarray(same_MF)
    scale_F = np.abs(np.where(np.isfinite(truth_MF), truth_MF, 0.0)).max(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(same_MF | (np.abs(known_MF - truth_MF) <= TOLERANCE * scale_F))


def _compare_scalers(
    bars: Bars,
    features: Sequence[FeatureRequest],
    plugins: Mapping[str, FeatureBuilder] | None,
    full: FeatureTable,
    train: Split,
    fit: FitScaler,
) -> list[str]:
    """Proof 2: a message where the scaler changes with the bars after train."""
    if train.stop >= len(bars):
        return []
    noisy = compute_features(noise_after(bars, train.stop), features, plugins)
    real, other = fit(full.values_NF, train), fit(noisy.values_NF, train)
    ours_2F, theirs_2F = (np.stack((scaler.mean_F, scaler.std_F)) for scaler in (real, other))
    moved_F = ~_nearly_equal(theirs_2F, ours_2F).all(axis=0)
    if not moved_F.any():
        return []
    names = ", ".join(full.names[f] for f in np.flatnonzero(moved_F))
    return [
        f"scaling must be fitted on train only, but that of {names} changes when the bars from row"
        f" {train.stop}"
        " on become noise; fit it on the train split"
    ]
