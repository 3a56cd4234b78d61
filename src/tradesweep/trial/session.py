"""One attempt of one trial, without Tune: build, train to the next evaluation, evaluate, publish, record."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayActorError
from ray.rllib.core import DEFAULT_MODULE_ID

from tradesweep import __version__
from tradesweep.agents import (
    AgentConfig,
    RecordingContext,
    RunnerContext,
    build_algorithm,
    count_updates,
    plain_layers,
)
from tradesweep.env import compile_env
from tradesweep.errors import TrialDiverged
from tradesweep.market import Market
from tradesweep.names import Metric, ProducerKey, ProducerRole, Record, TrialStatus
from tradesweep.policy import Evaluation, Evaluator, PlainPolicy, Run, build_policy_spec
from tradesweep.recording import Producer, RecorderClient, connect_recorder
from tradesweep.spec import SweepSpec
from tradesweep.trial.assignment import Assignment, ResumePoint, SweepContext, derive_seed
from tradesweep.trial.checkpoints import TrialState, find_intact, publish, remove, restore, retain
from tradesweep.trial.guards import ProgressGuard, check_evaluation, check_weights, digest_weights
from tradesweep.trial.metrics import evaluation_metrics, evaluation_runs, learner_metrics, rollout_metrics
from tradesweep.trial.records import IterationFacts, checkpoint_row, curve_row, evaluation_row, iteration_row
from tradesweep.trial.runners import RunnerPool
from tradesweep.trial.stopping import ScoreHistory

Found = TypeVar("Found")

STEPS_PER_RESULT = 256
"""Env steps between two results of RLlib at least: each costs as much as ten updates. Evaluations may be closer."""

LOSSES_FORGIVEN = 3
"""How often runners may be lost within one iteration; what kills them more often is the trial's own doing."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class IterationResult:
    """What one iteration says to Tune; every field is always present."""

    iteration: int
    env_steps: int
    score: float
    sharpe: float | None
    best_sharpe: float | None
    status: TrialStatus
    """RUNNING, or FINISHED or STOPPED with the last one."""

    def __str__(self) -> str:
        sharpe = "flat" if self.sharpe is None else f"{self.sharpe:.3f}"
        best = "none" if self.best_sharpe is None else f"{self.best_sharpe:.3f}"
        return (
            f"{self.status}: iteration {self.iteration}, {self.env_steps:,} env steps, validation Sharpe {sharpe},"
            f" score {self.score:.3f}, best {best}"
        )


class TrialSession:
    """One attempt. It samples in process until runners are attached."""

    def __init__(self, context: SweepContext, assignment: Assignment, *, market: Market) -> None:
        self.context, self.assignment, self.market = context, assignment, market
        self.spec = SweepSpec.from_json(context.spec_json)
        self.env_config = compile_env(self.spec, market)
        self._recorder = self._connect()
        self.resume = find_intact(assignment.resume)
        self.attempt = self._recorder.start_attempt(
            assignment.trial_id, os.getpid(), self.resume.iteration if self.resume else None
        )
        self.producer = Producer(self._connect, self._key(), timeout_s=self.spec.recording.db_timeout_s)
        self.agent = self._agent_config()
        self.algorithm = build_algorithm(self.agent, self.runner_context(), market)
        self.state = self._restored(self.resume) if self.resume else TrialState()
        self._sampled_before = self.algorithm.env_steps_sampled
        self._updates_before = count_updates(self.algorithm)
        self._steps_before, self._made_before = self.state.env_steps, self.state.updates
        self._history = self._score_history()
        self._progress = ProgressGuard()
        self._beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="removal")
        self._removal: Future[None] = self._beside.submit(remove, [])
        self._runners: RunnerPool | None = None
        self._losses = self._losses_mended = self._losses_before = 0
        self._replaced: set[int] = set()
        self._dropped: dict[int, int] = {}
        self._clock = time.monotonic() - self.state.elapsed_s

    # --- building ------------------------------------------------------------------------------------------------

    def _connect(self) -> RecorderClient:
        return connect_recorder(self.context.recorder, timeout_s=self.spec.recording.db_timeout_s)

    def _key(self) -> ProducerKey:
        return ProducerKey(self.context.sweep_id, self.assignment.trial_id, self.attempt, ProducerRole.TRIAL, 0)

    def _agent_config(self) -> AgentConfig:
        return AgentConfig(
            algorithm=self.spec.algorithm,
            params=self.assignment.params,
            seed=self._seed(),
            lanes=self.context.lanes,
            env_runners=self.context.env_runners,
            gpus=self.context.gpus_per_trial,
            steps_per_result=min(STEPS_PER_RESULT, self.spec.budget.env_steps_per_trial // self.spec.evaluation.count),
        )

    def _seed(self) -> int:
        """A resumed attempt draws anew."""
        if self.resume is None:
            return self.assignment.seed
        return derive_seed(self.assignment.seed, self.resume.iteration)

    def runner_context(self) -> RunnerContext:
        """What this attempt tells its runners."""
        return RunnerContext(
            spec_json=self.context.spec_json,
            market_sha256=self.market.sha256,
            env_runners=self.context.env_runners,
            recording=RecordingContext(
                recorder=self.context.recorder,
                sweep_id=self.context.sweep_id,
                trial_id=self.assignment.trial_id,
                attempt=self.attempt,
                steps=self.spec.recording.steps == "all",
                timeout_s=self.spec.recording.db_timeout_s,
            ),
        )

    def _score_history(self) -> ScoreHistory:
        evaluation = self.spec.evaluation
        return ScoreHistory(
            window=evaluation.score_window,
            patience=evaluation.patience,
            least=evaluation.min_evaluations or -(-evaluation.count // 3),
            raw=self.state.raw_scores,
        )

    def _restored(self, resume: ResumePoint) -> TrialState:
        return restore(Path(resume.path), manifest_sha256=resume.manifest_sha256, algorithm=self.algorithm)

    # --- remote runners ------------------------------------------------------------------------------------------

    def attach_runners(self, runners: RunnerPool) -> None:
        """Sample with these remote runners from now on."""
        runners.begin(self.agent, self.runner_context())
        self._runners = runners
        self._survive_losses(lambda: self.algorithm.attach_runners(runners.handles))
        self._clock = time.monotonic() - self.state.elapsed_s

    def _survive_losses(self, work: Callable[[], Found]) -> Found:
        """Do work that asks the runners; when one of them is lost, replace it and do the work again.

        What a runner itself raises is no loss: it ends the trial.
        """
        while True:
            try:
                if self._losses > self._losses_mended:
                    self._replace_lost()
                return work()
            except RayActorError as error:
                self._note_loss(error)

    def _note_loss(self, error: RayActorError) -> None:
        """Raises the error again when the trial should not go on: a runner that cannot be built will never be."""
        forgiven = self._losses - self._losses_before < LOSSES_FORGIVEN
        if self._runners is None or error.actor_init_failed or not forgiven:
            raise error
        self._losses += 1
        logger.warning("trial %s lost a runner: %s", self.assignment.trial_no, error)

    def _replace_lost(self) -> None:
        """New processes in the place of those that are gone; all of them get the weights and the step count."""
        assert self._runners is not None
        agent = replace(self.agent, seed=derive_seed(self.agent.seed, self._losses))
        self._replaced.update(self._runners.replace_lost(agent, self.runner_context()))
        self.algorithm.attach_runners(self._runners.handles)
        self._count_dropped()
        self._losses_mended = self._losses

    def _count_dropped(self) -> None:
        """Report the steps that training got from a lost runner and that died with it before their commit.

        The recorder has fenced it by now, so that what it recorded is final.
        """
        assert self._runners is not None
        for worker in self._replaced:
            handed_over = self.algorithm.steps_handed_over(self.attempt, worker)
            dropped = handed_over - self._runners.recorded_before(worker) - self._dropped.get(worker, 0)
            if dropped > 0:
                self._dropped[worker] = self._dropped.get(worker, 0) + dropped
                self.producer.send({}, dropped=dropped)
        self._replaced.clear()

    # --- one iteration -------------------------------------------------------------------------------------------

    def iterate(self) -> IterationResult:
        """Train to the next evaluation, evaluate on validation, publish, record; everything is committed on return.

        Raises TrialDiverged for losses, weights, rewards or observations that are not finite, TradesweepError when
        nothing moves any more, and whatever the environment or RLlib raised.
        """
        self._losses_before = self._losses
        trained = self._train()
        self.state.iteration += 1
        self.state.elapsed_s = time.monotonic() - self._clock
        layers, weights = plain_layers(self.spec.algorithm, self.algorithm.get_module(DEFAULT_MODULE_ID))
        self._check_progress(trained, weights)
        self._hand_over_rows()
        started = time.monotonic()
        policy = self._plain_policy(layers, weights)
        evaluations = self._evaluate(policy)
        evaluation = evaluations[Metric.VALIDATION_SHARPE]
        check_evaluation(evaluation)
        score = self._history.add(evaluation.score)
        status = self._status()
        metrics = self._metrics(trained, evaluations, score, time.monotonic() - started)
        self._publish_and_record(policy, evaluation, score, metrics)
        if status != TrialStatus.RUNNING:
            self._removal.result()
        return IterationResult(
            iteration=self.state.iteration,
            env_steps=self.state.env_steps,
            score=score,
            sharpe=evaluation.sharpe,
            best_sharpe=self.state.best_sharpe,
            status=status,
        )

    def _train(self) -> dict[Metric, float | None]:
        """Train until the env steps of the next evaluation are reached; return the newest value of each metric."""
        planned, count = self.spec.budget.env_steps_per_trial, self.spec.evaluation.count
        boundary = min(-(-planned * (self.state.iteration + 1) // count), self._budget)
        newest: dict[Metric, float | None] = {}
        while self.state.env_steps < boundary:
            updates = self.state.updates
            results = self._train_once()
            self.state.env_steps = self._steps_before + self.algorithm.env_steps_sampled - self._sampled_before
            self.state.updates = self._made_before + count_updates(self.algorithm) - self._updates_before
            newest |= rollout_metrics(results, self.env_config.reward_scale)
            if self.state.updates > updates:  # else RLlib fills the learner's metrics with NaN
                newest |= learner_metrics(results)
        return newest

    def _train_once(self) -> Mapping[str, Any]:
        """One training step of RLlib. Raises TrialDiverged where it broke on weights that are not finite."""
        try:
            results: Mapping[str, Any] = self._survive_losses(self.algorithm.train)
        except Exception as error:
            module = self.algorithm.learner_group._learner.module[DEFAULT_MODULE_ID]
            if all(torch.isfinite(weight).all() for weight in module.parameters()):
                raise
            raise TrialDiverged("learner: weights must be finite, were not; lower lr or set grad_clip") from error
        return results

    def _plain_policy(self, layers: Mapping[str, Any], weights: Mapping[str, Any]) -> PlainPolicy:
        """The policy as it stands: plain weights in float64, greedy."""
        policy_spec = build_policy_spec(self.spec, self.market, self.env_config, layers=layers)
        return PlainPolicy.from_arrays(policy_spec, weights)

    def _check_progress(self, trained: Mapping[Metric, float | None], weights: Mapping[str, Any]) -> None:
        """Raise where weights ran away, and where nothing moves any more.

        Updates are due once the warm-up is over, other weights where there were updates with an lr above 0.
        """
        check_weights(weights)
        due: dict[str, Hashable] = {"env steps": self.state.env_steps}
        if self.algorithm.env_steps_sampled - self._sampled_before > self._warm_up_steps:
            due["updates"] = self.state.updates
        if trained.get(Metric.TRAIN_LEARNING_RATE):
            due["weights"] = digest_weights(weights)
        self._progress.check(due)

    @property
    def _warm_up_steps(self) -> int:
        """Env steps an attempt may make before its first update; PPO has none."""
        return int(getattr(self.algorithm.config, "num_steps_sampled_before_learning_starts", 0))

    @cached_property
    def _runs(self) -> dict[Metric, Run]:
        bars = len(self.market.splits["validation"])
        return evaluation_runs(self.spec.algorithm, validation_bars=bars, seed=self.assignment.seed)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.market, self.env_config, list(self._runs.values()))

    def _evaluate(self, policy: PlainPolicy) -> dict[Metric, Evaluation]:
        """One pass of the evaluator: what is recorded, and what only becomes a metric."""
        found = self._evaluator.run(
            policy,
            record=self.producer.next_episode_no,
            weights_version=self.weights_version,
            number=self.state.iteration,
        )
        return dict(zip(self._runs, found, strict=True))

    @property
    def weights_version(self) -> int:
        """How often the learner's weights were changed: what steps carry, and checkpoints are found by."""
        return int(self.algorithm.learner_group._learner._weights_seq_no)

    @property
    def _budget(self) -> int:
        return self.context.env_steps_per_trial or self.spec.budget.env_steps_per_trial

    def _status(self) -> TrialStatus:
        if self.state.env_steps >= self._budget:
            return TrialStatus.FINISHED
        return TrialStatus.STOPPED if self._history.is_exhausted else TrialStatus.RUNNING

    # --- publishing and recording --------------------------------------------------------------------------------

    def _publish_and_record(
        self, policy: PlainPolicy, evaluation: Evaluation, score: float, metrics: dict[Metric, float | None]
    ) -> None:
        """Runners first, then the checkpoint, then the rows that name it: a row never points at nothing."""
        lanes = self._flush_runners()
        self._removal.result()  # or a folder that goes might be the one that is published
        metrics.update(self._recorder_metrics())
        eligible = evaluation.is_eligible(self.spec.evaluation.min_trades)
        led = self.state.leading
        self.state.rank(evaluation.sharpe, eligible=eligible, most=self.spec.recording.keep_best)
        metrics[Metric.VALIDATION_BEST_SHARPE] = self.state.best_sharpe
        path, manifest = self._publish(policy, evaluation.sharpe)
        facts = self._iteration_facts(score, eligible)
        self.producer.send(
            {
                **(evaluation.records or {}),
                Record.EVALUATIONS: evaluation_row(facts, evaluation),
                Record.EVALUATION_CURVES: curve_row(evaluation, self.market),
                Record.ITERATIONS: iteration_row(facts, metrics),
                Record.CHECKPOINTS: checkpoint_row(
                    facts, path=path, manifest_sha256=manifest, sharpe=evaluation.sharpe, lanes=lanes
                ),
            }
        )
        self.producer.flush()
        self._retain(led)

    def _publish(self, policy: PlainPolicy, sharpe: float | None) -> tuple[str, str]:
        """Write the checkpoint; its path below the home, and the sha256 of its manifest."""
        folder = self.context.folders.checkpoint(self.context.sweep_id, self.assignment.trial_no, self.state.iteration)
        facts = self._facts(sharpe)
        manifest = publish(folder, algorithm=self.algorithm, policy=policy, state=self.state, facts=facts)
        return str(folder.relative_to(self.context.home)), manifest

    def _iteration_facts(self, score: float, eligible: bool) -> IterationFacts:
        return IterationFacts(
            iteration=self.state.iteration,
            at=time.time_ns() // 1000,
            env_steps=self.state.env_steps,
            updates=self.state.updates,
            weights_version=self.weights_version,
            elapsed_s=self.state.elapsed_s,
            score=score,
            eligible=eligible,
        )

    def _retain(self, led: set[int]) -> None:
        """Keep the best, the last two and what was promoted; and what led before, for whoever goes back by one.

        The store forgets a checkpoint before its files go: no row names nothing. They go while the next iteration
        trains: deleting two dozen small files takes as long as some minibatches.
        """
        promoted = self.resume.promoted if self.resume else ()
        keep = {*self.state.leading, *self.state.newest, *led, *promoted}
        folder = self.context.folders.checkpoint(self.context.sweep_id, self.assignment.trial_no, 0).parent
        forgotten = retain(
            folder,
            keep=keep,
            forget=lambda iteration: self._recorder.mark_checkpoint_deleted(self.assignment.trial_id, iteration),
        )
        self._removal = self._beside.submit(remove, forgotten)

    def _hand_over_rows(self) -> None:
        """What runners have gathered is on its way before the evaluation begins, which takes longer than a commit."""
        group = self.algorithm.env_runner_group
        self._survive_losses(
            lambda: group.foreach_env_runner(
                lambda runner: runner.hand_over(), local_env_runner=group.num_remote_workers() == 0
            )
        )

    def _flush_runners(self) -> list[tuple[int, int]]:
        """Wait for every runner's rows; return (episode, t) of every lane."""
        group = self.algorithm.env_runner_group
        positions = self._survive_losses(
            lambda: group.foreach_env_runner(
                lambda runner: (runner.flush(), runner.lane_positions())[1],
                local_env_runner=group.num_remote_workers() == 0,
            )
        )
        return [lane for lanes in positions for lane in lanes]

    def flush_what_is_left(self) -> None:
        """After an error: the steps that led to it are recorded as far as that goes, and the error stays the news."""
        try:
            self._flush_runners()
        except Exception:
            logger.exception("trial %s: the last steps before its error are not recorded", self.assignment.trial_no)

    def _facts(self, sharpe: float | None) -> dict[str, Any]:
        return {
            "sweep_id": self.context.sweep_id,
            "trial_id": self.assignment.trial_id,
            "attempt": self.attempt,
            "iteration": self.state.iteration,
            "env_steps": self.state.env_steps,
            "weights_version": self.weights_version,
            "validation_sharpe": sharpe,
            "data_sha256": self.market.sha256,
            "versions": {"tradesweep": __version__, "ray": ray.__version__},
        }

    def _metrics(
        self,
        trained: Mapping[Metric, float | None],
        evaluations: Mapping[Metric, Evaluation],
        score: float,
        evaluation_s: float,
    ) -> dict[Metric, float | None]:
        return {
            **trained,
            **evaluation_metrics(evaluations),
            Metric.VALIDATION_SCORE: score,
            Metric.TRAIN_ENV_STEPS: self.state.env_steps,
            Metric.TRAIN_UPDATES: self.state.updates,
            Metric.TIME_ELAPSED: self.state.elapsed_s,
            Metric.TIME_STEPS_PER_S: self.state.env_steps / max(self.state.elapsed_s, 1e-9),
            Metric.TIME_EVALUATION: evaluation_s,
        }

    def _recorder_metrics(self) -> dict[Metric, float | None]:
        """How the recorder of all trials is doing: over its last seconds, not those of this trial alone."""
        stats = self._recorder.stats()
        return {Metric.RECORDER_ROWS_PER_S: stats.rows_per_s, Metric.RECORDER_LAG: stats.lag_s}

    def close(self) -> None:
        """Let go of the learner and the lanes; remote runners live on. What is open in the store is closed there."""
        self._beside.shutdown()
        self.algorithm.detach_runners()
        self.algorithm.cleanup()
