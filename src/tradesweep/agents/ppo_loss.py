"""PPO's loss for discrete actions, and its gradient written out: what RLlib's loss gives, without a graph.

Legend: N transitions, A actions. A batch has RLlib's columns: actions (N,), the logits (N, A) and the log probability
(N,) that acted, advantages (N,) and value targets (N,).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from tradesweep.agents.learner import Columnar
from tradesweep.agents.slopes import as_array, policy_slopes


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOLoss:
    """-min(A r, A clip(r)) - c_H H + c_KL KL(old, new) + c_V min((V - target)^2, limit), each the mean of N rows.

    Schulman et al. 2017, eqs. 7 to 9; r is the ratio of the probabilities of the action that was taken.
    """

    clip: float
    """The ratio counts from 1 - clip to 1 + clip."""
    entropy_coeff: float
    """c_H, now."""
    kl_coeff: float
    """c_KL, now; 0 without that term."""
    value_coeff: float
    """c_V; 0 without a critic."""
    value_clip: float
    """The limit of a squared miss."""

    def policy_gradient(self, logits_NA: torch.Tensor, batch: Columnar) -> torch.Tensor:
        """(N, A) of the loss by the logits."""
        slopes_NA = policy_slopes(
            as_array(logits_NA),
            as_array(batch[Columns.ACTION_DIST_INPUTS]),
            as_array(batch[Columns.ACTION_LOGP]),
            as_array(batch[Columns.ACTIONS]),
            as_array(batch[Postprocessing.ADVANTAGES]),
            self.clip,
            self.entropy_coeff,
            self.kl_coeff,
        )
        return torch.from_numpy(slopes_NA).to(logits_NA.device)

    def value_gradient(self, values_N: torch.Tensor, batch: Columnar) -> torch.Tensor:
        """(N,) of the loss by the values; none where the squared miss is beyond its limit."""
        misses_N = values_N - batch[Postprocessing.VALUE_TARGETS]
        beyond_N = misses_N.square() > self.value_clip
        return misses_N.mul_(2.0 * self.value_coeff / len(values_N)).masked_fill_(beyond_N, 0.0)

    def policy_terms(self, logits_NA: torch.Tensor, batch: Columnar) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) the clipped surrogate's loss, and the entropy."""
        log_p_NA = logits_NA.log_softmax(1)
        return -torch.min(*self._gains(log_p_NA, batch)), _entropy(log_p_NA.exp(), log_p_NA)

    def _gains(self, log_p_NA: torch.Tensor, batch: Columnar) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) A r, and A times the clipped ratio."""
        log_p_N = log_p_NA.gather(1, batch[Columns.ACTIONS].view(-1, 1)).squeeze(1)
        ratio_N, advantages_N = (log_p_N - batch[Columns.ACTION_LOGP]).exp_(), batch[Postprocessing.ADVANTAGES]
        return advantages_N * ratio_N, advantages_N * ratio_N.clamp_(1 - self.clip, 1 + self.clip)


def _entropy(p_NA: torch.Tensor, log_p_NA: torch.Tensor) -> torch.Tensor:
    return -(p_NA * log_p_NA).sum(1)


def divergence(logits_NA: torch.Tensor, batch: Columnar) -> torch.Tensor:
    """(N,) KL from the policy that acted to the one that learns.

    Infinite, as RLlib's, where an action that was possible has become impossible: that trial has diverged.
    """
    log_p_NA, acted_log_p_NA = logits_NA.log_softmax(1), batch[Columns.ACTION_DIST_INPUTS].log_softmax(1)
    acted_p_NA = acted_log_p_NA.exp()
    terms_NA = acted_p_NA * (acted_log_p_NA - log_p_NA)
    return terms_NA.masked_fill((log_p_NA.exp() == 0.0) & (acted_p_NA > 0.0), torch.inf).sum(1)
