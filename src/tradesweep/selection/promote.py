"""Promotion: the gate, then the test split once, then the alias `champion`.

The order protects the test split: everything that can refuse or fail comes before it is read, and its reading is
written down before anything is done with it. What was read cannot be read a second time for the same checkpoint.
"""

from __future__ import annotations

import getpass
import json
import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tradesweep.home import Home
from tradesweep.names import EpisodeRole, Metric
from tradesweep.policy import Evaluation, evaluate
from tradesweep.selection.candidate import BestCheckpoint, get_best, mlflow_errors, register_best
from tradesweep.selection.gate import Case, Check, GateRefused, run_gate
from tradesweep.store import NewPromotion, NewTestReading, ReadingRow, Store, Writer, open_store
from tradesweep.tracking import CHAMPION, ModelVersion, build_projector, list_versions, open_client, prepare_backend
from tradesweep.tracking import set_champion as move_champion

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True, slots=True)
class Force:
    """A person's word against the gate's."""

    reason: str
    """Why; kept with the promotion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TestReading:
    """What the test split said about this checkpoint."""

    __test__ = False

    sharpe: float | None
    """Annualised Sharpe ratio; None when undefined."""
    at: int
    """When it was read, microseconds UTC."""
    earlier: bool
    """It was read by an earlier promotion; nothing was read now."""
    number: int
    """How manieth reading of overlapping test bars of this instrument it is, 1 for the first."""
    details: dict[str, Any]
    """Trades, pnl in percent, drawdown; empty for an earlier reading that led to no promotion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """What came of promoting a sweep's best checkpoint."""

    sweep_id: str
    """The sweep."""
    trial_no: int
    """Trial of the checkpoint."""
    iteration: int
    """Iteration of the checkpoint."""
    model: str
    """The registered model."""
    sharpe: float
    """Annualised validation Sharpe ratio."""
    hurdle: float
    """Annualised luck hurdle of the sweep."""
    deflated: float
    """`sharpe` less `hurdle`."""
    checks: tuple[Check, ...]
    """The gate's table."""
    verdict: str
    """PASSED or FORCED; of a rehearsal PASSED or REFUSED."""
    reading: TestReading | None = None
    """The test split; None in a rehearsal."""
    version: int | None = None
    """Version of the model; None in a rehearsal."""
    previous_version: int | None = None
    """What the alias named before; None for the first champion."""
    registered_before: bool = False
    """The checkpoint was a version of the model already."""

    @property
    def already_champion(self) -> bool:
        """Nothing changed."""
        return self.version is not None and self.version == self.previous_version

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"already_champion": self.already_champion}


def rehearse_promotion(home: Home, name: str) -> Promotion:
    """The gate's table for the best checkpoint of a sweep or experiment; test is not read, nothing is written.

    Raises NotFound, and Refused when no checkpoint may be chosen.
    """
    store = open_store(home.database)
    best = get_best(store, name)
    checks = run_gate(Case(store, home, best))
    return _promotion(best, checks, "PASSED" if _has_passed(checks) else "REFUSED")


def promote(home: Home, name: str, *, force: Force | None = None) -> Promotion:
    """Make the best checkpoint of a sweep, or of an experiment's newest one, the champion of its model.

    Holds the database's lock. Raises NotFound, StoreLocked, Refused when no checkpoint may be chosen, GateRefused
    (with its table, and recorded) when a check fails that `force` does not pass, TradesweepError when MLflow fails.
    """
    store = open_store(home.database)
    best = get_best(store, name)
    with Writer(home.database) as writer:
        case = Case(store, home, best)
        checks = run_gate(case)
        verdict = _judge(best, checks, force, writer)
        registry = _Registry(store, writer, home, best.sweep.sweep_id)
        version, known = registry.register(best)
        reading = read_test(case, writer)
        previous = registry.crown(best, version, reading)
        promotion = _promotion(
            best,
            checks,
            verdict,
            reading=reading,
            version=version.version,
            previous_version=previous,
            registered_before=known,
        )
        if not (promotion.already_champion and _is_recorded(store, promotion)):
            writer.record_promotion(_to_row(best, promotion, force))
        registry.deliver()
    return promotion


# --- the gate -------------------------------------------------------------------------------------------------


def _has_passed(checks: tuple[Check, ...]) -> bool:
    return all(check.passed for check in checks)


def _judge(best: BestCheckpoint, checks: tuple[Check, ...], force: Force | None, writer: Writer) -> str:
    """PASSED or FORCED; a refusal is recorded and raised."""
    failed = [check for check in checks if not check.passed]
    if not failed:
        return "PASSED"
    if force is not None and all(check.forcible for check in failed):
        return "FORCED"
    refusal = _promotion(best, checks, "REFUSED")
    writer.record_promotion(_to_row(best, refusal, force))
    raise GateRefused(describe_refusal(best.sweep.sweep_id, checks), checks)


def describe_refusal(sweep_id: str, checks: tuple[Check, ...]) -> str:
    """Which rules failed, and whether force would help, in one line."""
    failed = [check for check in checks if not check.passed]
    rules = "; ".join(f"{check.name} must be {check.limit}, was {check.value}" for check in failed)
    if all(check.forcible for check in failed):
        return f'{sweep_id}: the gate refused: {rules}; `--force --reason "..."` passes it and is recorded'
    return f"{sweep_id}: the gate refused: {rules}; this is a rule of integrity, which force does not pass"


# --- the test split -------------------------------------------------------------------------------------------


def read_test(case: Case, writer: Writer) -> TestReading:
    """The test split's word on this checkpoint: the earlier reading if there is one, else it is read, once."""
    split, times = case.market.splits["test"], case.market.bars.time_us
    first_time, last_time = int(times[split.start]), int(times[split.stop - 1])
    readings = case.store.list_test_readings(case.market.instrument, first_time=first_time, last_time=last_time)
    for number, reading in enumerate(readings, start=1):
        if _is_of(reading, case.best):
            return _earlier_reading(case, reading, number)
    evaluation = evaluate(case.policy, case.market, case.config, split="test", role=EpisodeRole.TEST)
    writer.record_test_reading(_reading_row(case, evaluation, first_time, last_time))
    readings = case.store.list_test_readings(case.market.instrument, first_time=first_time, last_time=last_time)
    return TestReading(
        sharpe=evaluation.sharpe,
        at=readings[-1].at,
        earlier=False,
        number=len(readings),
        details=_describe_evaluation(evaluation),
    )


def _is_of(reading: ReadingRow, best: BestCheckpoint) -> bool:
    """Of this very checkpoint: one that a later attempt published anew is younger than readings of the old one."""
    return (
        reading.trial_id == best.trial.trial_id
        and reading.iteration == best.checkpoint.iteration
        and reading.market_sha256 == best.sweep.data_sha256
        and reading.at >= best.checkpoint.at
    )


def _earlier_reading(case: Case, reading: ReadingRow, number: int) -> TestReading:
    promotions = case.store.list_promotions(model=case.best.model)
    same = (row for row in promotions if row.manifest_sha256 == case.best.checkpoint.manifest_sha256)
    told = (json.loads(row.details_json).get("reading") or {} for row in same)
    details: dict[str, Any] = next((reading["details"] for reading in told if reading.get("details")), {})
    return TestReading(sharpe=reading.sharpe, at=reading.at, earlier=True, number=number, details=details)


def _reading_row(case: Case, evaluation: Evaluation, first_time: int, last_time: int) -> NewTestReading:
    best = case.best
    return NewTestReading(
        experiment=best.sweep.experiment,
        sweep_id=best.sweep.sweep_id,
        trial_id=best.trial.trial_id,
        iteration=best.checkpoint.iteration,
        market_sha256=case.market.sha256,
        instrument=case.market.instrument,
        first_time=first_time,
        last_time=last_time,
        sharpe=evaluation.sharpe,
        reason="promote",
    )


def _describe_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "status": evaluation.status.value,
        "trades": evaluation.trades,
        "pnl_pct": 100.0 * evaluation.total_return,
        "max_drawdown": evaluation.max_drawdown,
        "bars": evaluation.bars,
    }


# --- the registry ---------------------------------------------------------------------------------------------


class _Registry:
    """MLflow's model registry, after MLflow was told everything that the store knows."""

    def __init__(self, store: Store, writer: Writer, home: Home, sweep_id: str) -> None:
        self._home = home
        self._uri = prepare_backend(home.mlflow_database, home.artifacts)
        self._client: MlflowClient = open_client(self._uri)
        self._projector = build_projector(store, writer, home, sweep_id, tracking_uri=self._uri)

    def deliver(self) -> None:
        """Tell MLflow what it does not know yet."""
        with mlflow_errors(self._uri):
            self._projector.project_all()

    def register(self, best: BestCheckpoint) -> tuple[ModelVersion, bool]:
        """The checkpoint's version, and whether it was there before."""
        self.deliver()
        with mlflow_errors(self._uri):
            known = {version.version for version in list_versions(self._client, best.model)}
            version = register_best(self._client, best, self._home, self._uri)
        return version, version.version in known

    def crown(self, best: BestCheckpoint, version: ModelVersion, reading: TestReading) -> int | None:
        """Move alias `champion` to the version, with the test reading as its tags; the version that had it before."""
        tags = {Metric.TEST_SHARPE.value: reading.sharpe, **_metric_tags(reading.details)}
        with mlflow_errors(self._uri):
            for key, value in tags.items():
                self._client.set_model_version_tag(best.model, str(version.version), key, str(value))
            return move_champion(self._client, best.model, version.version)


def _metric_tags(details: dict[str, Any]) -> dict[str, Any]:
    names = {
        "trades": Metric.TEST_TRADES,
        "pnl_pct": Metric.TEST_PNL_PCT,
        "max_drawdown": Metric.TEST_MAX_DRAWDOWN,
    }
    return {names[key].value: value for key, value in details.items() if key in names}


# --- the record -----------------------------------------------------------------------------------------------


def _promotion(best: BestCheckpoint, checks: tuple[Check, ...], verdict: str, **outcome: Any) -> Promotion:
    return Promotion(
        sweep_id=best.sweep.sweep_id,
        trial_no=best.trial.trial_no,
        iteration=best.checkpoint.iteration,
        model=best.model,
        sharpe=best.sharpe,
        hurdle=best.hurdle,
        deflated=best.deflated,
        checks=checks,
        verdict=verdict,
        **outcome,
    )


def _to_row(best: BestCheckpoint, promotion: Promotion, force: Force | None) -> NewPromotion:
    return NewPromotion(
        experiment=best.sweep.experiment,
        sweep_id=best.sweep.sweep_id,
        trial_id=best.trial.trial_id,
        iteration=best.checkpoint.iteration,
        manifest_sha256=best.checkpoint.manifest_sha256,
        model=best.model,
        version=_text(promotion.version),
        alias=CHAMPION,
        previous_version=_text(promotion.previous_version),
        verdict=promotion.verdict,
        reason=force.reason if force is not None else None,
        details={"by": _name_person(), "host": socket.gethostname(), **promotion.to_dict()},
    )


def _is_recorded(store: Store, promotion: Promotion) -> bool:
    """The store knows that this version became champion: a promotion that died after MLflow's part is made up for."""
    moves = (row for row in store.list_promotions(model=promotion.model) if row.version is not None)
    newest = next(moves, None)
    return newest is not None and newest.version == str(promotion.version)


def _text(version: int | None) -> str | None:
    return None if version is None else str(version)


def _name_person() -> str:
    """The user's login; a container may have a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
