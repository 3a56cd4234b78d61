"""Scaling fitted on the train split only; it travels with the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.errors import MarketError
from tradesweep.market.bars import Floats
from tradesweep.market.splits import Split

CLIP = 10.0
"""Scaled features are clipped to +-10 standard deviations."""
LEAST_STD = 1e-12
"""A feature that moves less than this on train is only centred: it says nothing there."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scaler:
    """x -> (x - mean) / std, clipped. F features."""

    mean_F: Floats
    """(F,) mean over the train rows."""
    std_F: Floats
    """(F,) standard deviation (ddof 0) over the train rows; 1 for a constant feature."""

    @classmethod
    def fit(cls, values_NF: Floats, train: Split) -> Scaler:
        """Fit on the rows of `train` that have all features; raises `MarketError` where there is none."""
        rows_MF = values_NF[train.start : train.stop]
        rows_MF = rows_MF[np.isfinite(rows_MF).all(axis=1)]
        if not len(rows_MF):
            raise MarketError(
                f"splits.{train.name} must hold a bar with all features, but bars {train.start} to"
                f" {train.stop - 1} have none; start it later or shorten the features' periods"
            )
        std_F = rows_MF.std(axis=0)
        return cls(mean_F=rows_MF.mean(axis=0), std_F=np.where(std_F < LEAST_STD, 1.0, std_F))

    def transform(self, values_NF: Floats) -> NDArray[np.float32]:
        """(N, F) float32 scaled values; NaN stays NaN."""
        scaled_NF = (values_NF - self.mean_F) / self.std_F
        return np.ascontiguousarray(np.clip(scaled_NF, -CLIP, CLIP), dtype=np.float32)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain numbers for JSON; `from_dict` gives the same bits back."""
        return {"mean": self.mean_F.tolist(), "std": self.std_F.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[float]] | Mapping[str, Any]) -> Scaler:
        """The scaler that `to_dict` wrote."""
        mean_F, std_F = (np.asarray(values[key], dtype=np.float64) for key in ("mean", "std"))
        return cls(mean_F=mean_F, std_F=std_F)
