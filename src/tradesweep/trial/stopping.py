"""When a trial has seen enough: scores, their average, and patience. Pure rules."""

from __future__ import annotations

from dataclasses import dataclass, field

from tradesweep.names import SCORE_FLOOR as SCORE_FLOOR


@dataclass(kw_only=True, slots=True)
class ScoreHistory:
    """Raw scores of a trial's evaluations, and what follows from them."""

    window: int
    """Evaluations averaged into the score."""
    patience: int | None
    """Evaluations without a better score before the trial stops; None: never."""
    least: int
    """Evaluations a trial always gets."""
    raw: list[float] = field(default_factory=list)
    """Raw score of each evaluation so far."""

    def add(self, raw_score: float) -> float:
        """Append a raw score and return the score: the mean of the last `window` raw ones."""
        self.raw.append(raw_score)
        return self._score(len(self.raw))

    def _score(self, count: int) -> float:
        recent = self.raw[max(count - self.window, 0) : count]
        return sum(recent) / len(recent)

    @property
    def is_exhausted(self) -> bool:
        """True when `patience` evaluations passed without a better score, and the trial had its least."""
        if self.patience is None or len(self.raw) < self.least:
            return False
        scores = [self._score(count) for count in range(1, len(self.raw) + 1)]
        best_at = max(range(len(scores)), key=lambda index: (scores[index], -index))
        return len(scores) - 1 - best_at >= self.patience
