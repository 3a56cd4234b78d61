"""SweepSpec: one experiment, frozen and validated. A docstring under each field says what a person decides."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from tradesweep.errors import BadInput, SpecError
from tradesweep.spec.distributions import Distribution, read_distribution
from tradesweep.spec.forms import Form
from tradesweep.spec.problems import RuleBroken, find_place, message_at
from tradesweep.spec.yaml_loader import Place

OWN_FIELDS = ("experiment", "format_version")
"""Fields of a SweepSpec that nobody writes."""

MOST_ENV_STEPS = 1_000_000_000_000
"""Of a trial: years of training."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = "must be 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit"


def is_name(word: object) -> bool:
    """Whether `word` may become part of a path."""
    return isinstance(word, str) and NAME.fullmatch(word) is not None


def _check_name(name: str) -> str:
    if not is_name(name):
        raise RuleBroken("", NAME_RULE, name)
    return name


Auto = Literal["auto"]
Tuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Number = Annotated[float, BeforeValidator(lambda value: float(value) if type(value) is int else value)]
Name = Annotated[str, AfterValidator(_check_name)]
Scalar = Annotated[int | float | str, Form("a number or text")]
Days = Annotated[tuple[str, str], Form("[first day, last day]")]
Bars = Annotated[int, Field(gt=0), Form("a number of bars > 0")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MarketSpec(_Part):
    """What is traded, and by which rules its bars are read."""

    source: Literal["csv", "parquet", "sample", "synthetic"]
    """Where bars come from."""
    name: str | None = None
    """Of a sample (sp500, nasdaq) or of a synthetic market."""
    path: str | None = None
    """Of a csv or parquet file, relative to the spec's folder."""
    params: dict[str, Scalar] = {}
    """Of a synthetic market: bars, seed, rho, q, sigma, ..."""
    instrument: str | None = None
    """Name of what is traded; default: the market's name, or the file's."""
    periods_per_year: Annotated[Number, Field(gt=0)]
    """Bars a year: 252 for daily sessions."""
    timezone: str | None = None
    """Of stamps without one."""
    bar_label: Literal["start", "end"] | None = None
    """Which end of a bar its stamp names; required below daily."""
    calendar: Literal["sessions", "24x7", "24x5"] = "sessions"
    max_gap: str | None = None
    """Longest time between two bars, as `7d` or `90m`."""
    gaps: Literal["refuse", "allow", "split"] = "refuse"
    """What a longer gap means: an error, nothing, or a border that no episode, window or fill crosses."""
    adjustment: Literal["none", "split", "total"] = "none"
    allow_jumps: bool = False
    """Accept one-bar moves that look like an unadjusted split."""
    columns: dict[str, str] | None = None
    """Theirs to ours: `{Last: close}`."""

    @model_validator(mode="after")
    def _fits_source(self) -> Self:
        of_file = self.source in ("csv", "parquet")
        needed, foreign = ("path", "name") if of_file else ("name", "path")
        if getattr(self, needed) is None:
            raise RuleBroken(needed, f"must be given for source {self.source}", None, beside=("source",))
        if getattr(self, foreign) is not None:
            rule = f"must not be given for source {self.source}"
            remedy = "what is traded is market.instrument" if of_file else "its bars have no file"
            raise RuleBroken(foreign, rule, getattr(self, foreign), remedy, beside=("source",))
        if self.params and self.source != "synthetic":
            rule = f"must not be given for source {self.source}"
            raise RuleBroken("params", rule, self.params, beside=("source",))
        return self


class FeatureSpec(_Part):
    """One feature and its parameters."""

    name: str
    params: dict[str, Any] = {}


class SplitsSpec(_Part):
    """What is learned on, chosen on, and read once: (first, last) dates, both included, or numbers of bars."""

    train: Annotated[Days | Bars, Tuple]
    validation: Annotated[Days | Bars, Tuple]
    test: Annotated[Days | Bars, Tuple]
    embargo_bars: Annotated[int, Field(ge=0)] = 0
    """Bars without decisions between splits."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        spans = {name: span for name, span in self.ranges().items() if not isinstance(span, int)}
        if len(spans) in (1, 2):
            written = {name: span if isinstance(span, int) else list(span) for name, span in self.ranges().items()}
            raise RuleBroken("", "must be all dates or all bar counts", written)
        before, last_day = "", ""
        for name, (first, last) in spans.items():
            _check_days(name, first, last)
            if first <= last_day:
                raise RuleBroken(name, f"must begin after {before} ends ({last_day})", first)
            before, last_day = name, last
        return self

    def ranges(self) -> dict[str, tuple[str, str] | int]:
        """The three ranges by name, in order."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def _check_days(name: str, first: str, last: str) -> None:
    for day in (first, last):
        if not _is_day(day):
            raise RuleBroken(name, "must be two days such as 2009-12-31", day)
    if last < first:
        raise RuleBroken(name, f"must end on or after its first day ({first})", last)


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


class EnvSpec(_Part):
    """The trading environment."""

    fill: Literal["next_open", "next_close"]
    """Where an order fills."""
    positions: Annotated[tuple[Number, ...], Tuple] = (-1.0, 0.0, 1.0)
    """Target exposures, one an action."""
    window_bars: Annotated[int, Field(ge=1)] = 1
    episode_bars: Annotated[int, Field(ge=2)] = 252
    fee_bps: Annotated[Number, Field(ge=0, lt=10_000)] = 1.0
    slippage_bps: Annotated[Number, Field(ge=0, lt=10_000)] = 1.0
    borrow_bps_per_year: Annotated[Number, Field(ge=0)] = 50.0
    initial_equity: Annotated[Number, Field(gt=0)] = 10_000.0
    ruin_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.2
    extra_delay_bars: Annotated[int, Field(ge=0)] = 0
    reward: str = "log_return"
    reward_params: dict[str, Number] = {}
    reward_scale: Annotated[Number, Field(gt=0)] | Auto = "auto"

    @model_validator(mode="after")
    def _positions(self) -> Self:
        if len(self.positions) < 2 or len(set(self.positions)) < len(self.positions):
            raise RuleBroken("positions", "must be at least two different targets", list(self.positions))
        if any(abs(position) > 1 for position in self.positions):
            raise RuleBroken("positions", "must lie within -1 and 1", list(self.positions))
        return self


class EvaluationSpec(_Part):
    """How often and how a trial is judged."""

    count: Annotated[int, Field(ge=8)] = 10
    """Evaluations a trial."""
    min_trades: Annotated[int, Field(ge=0)] = 20
    """Fewer closed trades: never the best."""
    patience: Annotated[int, Field(ge=1)] | None = 6
    """Evaluations without a better score before a trial stops."""
    min_evaluations: Annotated[int, Field(ge=1)] | None = None
    """Evaluations a trial gets before its patience counts; default: a third of them."""
    score_window: Annotated[int, Field(ge=1)] = 3
    """Evaluations averaged into the score."""

    @model_validator(mode="after")
    def _may_stop(self) -> Self:
        if self.min_evaluations is not None and self.min_evaluations > self.count:
            rule = f"must be at most count ({self.count})"
            raise RuleBroken("min_evaluations", rule, self.min_evaluations, beside=("count",))
        return self


class BudgetSpec(_Part):
    """What a sweep may spend."""

    trials: Annotated[int, Field(ge=1, le=100_000)]
    """Points to try; the grid searcher tries every combination instead. With fewer than a sweep has begun already, the
    begun ones are completed, on every seed, and no other is begun."""
    env_steps_per_trial: Annotated[int, Field(ge=8, le=MOST_ENV_STEPS)]
    env_steps: Annotated[int, Field(ge=8)] | None = None
    """Over the whole sweep: once they are made, no trial is started any more."""
    wall_time_s: Annotated[Number, Field(gt=0)] | None = None
    """How long the trials of one run may take together; counted anew when the sweep goes on."""
    patience_trials: Annotated[int, Field(ge=1)] | None = None
    """Trials that end without a better best Sharpe before the search stops."""
    min_trials: Annotated[int, Field(ge=1)] = 10
    """Trials that end before that patience counts."""
    max_retries: Annotated[int, Field(ge=0)] = 0
    """How often a trial that crashed goes on from its last checkpoint; one that failed or diverged never does."""


class SearcherSpec(_Part):
    """Who draws the points."""

    kind: Literal["tpe", "random", "grid", "qmc", "cmaes", "gp"] = "tpe"
    """Models that learn from results: tpe (tree of Parzen estimators), cmaes (CMA-ES), gp (Gaussian process). Without
    one: random, qmc (a scrambled Sobol sequence), grid (every combination)."""
    startup_trials: Annotated[int, Field(ge=1)] = 5
    """Random points before a model draws."""
    points: Annotated[tuple[dict[str, Any], ...], Tuple] = ()
    """Points to try first; what one leaves out is drawn."""


class PrunerSpec(_Part):
    """Who stops trials that fall behind."""

    kind: Literal["none", "successive_halving", "median", "hyperband"] = "none"
    min_evaluations: Annotated[int, Field(ge=1)] = 2
    """Evaluations that every trial has before it may be stopped."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Of successive halving and Hyperband: one of so many goes on from a rung to the next."""
    startup_trials: Annotated[int, Field(ge=1)] = 5
    """Of the median: finished trials before it is believed."""


class ConfirmSpec(_Part):
    """Retraining of the leaders on fresh seeds."""

    top: Annotated[int, Field(ge=1)]
    """Points, the best of the search."""
    seeds: Annotated[int, Field(ge=1)]
    """Seeds each of them is trained on again."""


class RecordingSpec(_Part):
    """What is kept. Evaluation steps and episode totals always are."""

    steps: Literal["all", "evaluation"] = "all"
    keep_best: Annotated[int, Field(ge=1)] = 1
    """Checkpoints a trial keeps for their validation Sharpe; the last two and those that were promoted stay too."""
    max_gb: Annotated[Number, Field(gt=0)] = 20.0
    db_timeout_s: Annotated[Number, Field(gt=0)] = 60.0
    """How long the database may be away before a trial fails."""


class ResourcesSpec(_Part):
    """How a machine is divided; `auto` is resolved once and stored."""

    concurrent_trials: Annotated[int, Field(ge=1)] | Auto = "auto"
    env_runners: Annotated[int, Field(ge=0, le=256)] | Auto = "auto"
    lanes: Annotated[int, Field(ge=1, le=65_536)] | Auto = "auto"
    cpus_per_trial: Annotated[Number, Field(gt=0)] | Auto = "auto"
    gpus_per_trial: Annotated[Number, Field(ge=0)] = 0.0


class PromotionSpec(_Part):
    """Where the winner goes."""

    model: Name | None = None
    """Registered model; default: the experiment's name."""


def _distribution(written: Any) -> Any:
    """As a model, as the model's own fields (from JSON), or as a sweep file writes it."""
    is_read = isinstance(written, BaseModel) or (isinstance(written, dict) and "kind" in written)
    return written if is_read else read_distribution(written)


class SweepSpec(_Part):
    """One experiment with its sweep file: everything a sweep is."""

    format_version: Literal[1] = 1
    experiment: Name
    description: str = ""
    sweep: Name
    plugins: Annotated[tuple[str, ...], Tuple] = ()
    algorithm: Literal["dqn", "ppo"]
    fixed: dict[str, Any] = {}
    search: dict[str, Annotated[Distribution, BeforeValidator(_distribution)]] = {}
    market: MarketSpec
    features: Annotated[tuple[FeatureSpec, ...], Tuple, Field(min_length=1), Form("a list of at least one feature")]
    splits: SplitsSpec
    env: EnvSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    budget: BudgetSpec
    searcher: SearcherSpec = SearcherSpec()
    pruner: PrunerSpec = PrunerSpec()
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    """How often each point is trained."""
    aggregate: Literal["mean", "median", "iqm"] = "mean"
    """What the search is told of a point's seeds; iqm is the interquartile mean."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    confirm: ConfirmSpec | None = None
    recording: RecordingSpec = RecordingSpec()
    resources: ResourcesSpec = ResourcesSpec()
    promotion: PromotionSpec = PromotionSpec()

    _places: dict[str, Place] = PrivateAttr(default_factory=dict)

    def error_at(
        self, path: str, rule: str, value: object, remedy: str = "", *, beside: Sequence[str] = ()
    ) -> SpecError:
        """A SpecError that says where `path` was written, the rule, the value and what to do.

        `beside` are the keys that the rule compares it with: one that was given by `--set` is the place then.
        """
        return SpecError(message_at(self._places, path, rule, value, remedy, beside=beside))

    @contextmanager
    def placing(self, path: str) -> Iterator[None]:
        """What is found wrong inside says where the spec wrote it: the key it begins with, or else `path`.

        Problems of a data file name that file by themselves.
        """
        try:
            yield
        except SpecError:
            raise
        except BadInput as error:
            first = str(error).partition(" ")[0]
            if self.market.path is not None and first.startswith(self.market.path):
                raise
            named = first if first.partition(".")[0] in SweepSpec.model_fields else path
            beside = DATA if named == "features" or named.partition(".")[0] == "splits" else ()
            raise type(error)(f"{find_place(self._places, named, beside)} {error}") from error

    def to_json(self) -> str:
        """Lossless text, with the places; the same text for the same spec."""
        places = {path: [place.source, place.line] for path, place in self._places.items()}
        return json.dumps({"spec": self.model_dump(mode="json"), "places": places}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Back from `to_json`."""
        stored = json.loads(text)
        spec = cls.model_validate_json(json.dumps(stored["spec"]))
        spec._places.update({path: Place(*place) for path, place in stored["places"].items()})
        return spec

    def identity(self, *, data_sha256: str, lanes: int, env_runners: int) -> str:
        """sha256 over everything that decides the numbers; what only decides how long or how wide is left out."""
        spec = self.model_dump(mode="json")
        parts = {name: _without_news(name, spec[name]) for name in IDENTITY_FIELDS}
        if self.seeds > 1:
            parts["aggregate"] = self.aggregate
        parts["market"] = {key: value for key, value in spec["market"].items() if key != "path"}
        parts |= {
            "env_steps_per_trial": self.budget.env_steps_per_trial,
            "data_sha256": data_sha256,
            "lanes": lanes,
            "env_runners": env_runners,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def sweep_id(self, *, data_sha256: str, lanes: int, env_runners: int) -> str:
        """`<experiment>-<first 8 of the identity>`."""
        identity = self.identity(data_sha256=data_sha256, lanes=lanes, env_runners=env_runners)
        return f"{self.experiment}-{identity[:8]}"


DATA = ("market", "splits")
"""What splits and features need bars of."""


def _without_news(name: str, part: Any) -> Any:
    news = NEWS.get(name, {})
    return {key: value for key, value in part.items() if key not in news or value != news[key]} if news else part


NEWS: dict[str, dict[str, Any]] = {"evaluation": {"min_evaluations": None}, "pruner": {"startup_trials": 5}}
"""Fields that came later, with what they mean where nobody wrote them: sweeps from before keep their identity."""

IDENTITY_FIELDS = (
    "format_version",
    "algorithm",
    "fixed",
    "search",
    "features",
    "splits",
    "env",
    "evaluation",
    "searcher",
    "pruner",
    "seeds",
    "seed",
)
