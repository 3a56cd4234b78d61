"""From YAML to one frozen SweepSpec; the search space, independent of Ray."""

from tradesweep.spec.bounds import broken_bounds, possible_values
from tradesweep.spec.distributions import (
    Choice,
    Distribution,
    Grid,
    LogUniform,
    QUniform,
    RandInt,
    Uniform,
    drop_inactive,
    is_active,
    order_by_condition,
)
from tradesweep.spec.keys import STEPS_PER_TRAINING_STEP, Key, keys_of
from tradesweep.spec.load import check_name, list_experiments, load_spec
from tradesweep.spec.models import (
    BudgetSpec,
    ConfirmSpec,
    EnvSpec,
    EvaluationSpec,
    FeatureSpec,
    MarketSpec,
    PromotionSpec,
    PrunerSpec,
    RecordingSpec,
    ResourcesSpec,
    SearcherSpec,
    SplitsSpec,
    SweepSpec,
)
from tradesweep.spec.rules import MOST_COMBINATIONS

__all__ = [
    "MOST_COMBINATIONS",
    "STEPS_PER_TRAINING_STEP",
    "BudgetSpec",
    "Choice",
    "ConfirmSpec",
    "Distribution",
    "EnvSpec",
    "EvaluationSpec",
    "FeatureSpec",
    "Grid",
    "Key",
    "LogUniform",
    "MarketSpec",
    "PromotionSpec",
    "PrunerSpec",
    "QUniform",
    "RandInt",
    "RecordingSpec",
    "ResourcesSpec",
    "SearcherSpec",
    "SplitsSpec",
    "SweepSpec",
    "Uniform",
    "broken_bounds",
    "check_name",
    "drop_inactive",
    "is_active",
    "keys_of",
    "list_experiments",
    "load_spec",
    "order_by_condition",
    "possible_values",
]
