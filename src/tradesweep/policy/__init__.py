"""The plain policy: NumPy float64 from safetensors and JSON, one evaluator for everything, manifests."""

from tradesweep.policy.evaluator import (
    EVALUATION_LANES,
    Evaluation,
    Evaluator,
    Run,
    check_evaluable,
    evaluate,
    evaluate_constant,
    evaluate_many,
    evaluate_targets,
    raw_score,
)
from tradesweep.policy.manifest import MANIFEST, verify_manifest, write_manifest
from tradesweep.policy.plain import POLICY_JSON, POLICY_WEIGHTS, PlainPolicy
from tradesweep.policy.policy_spec import Feature, Layer, PolicySpec, build_policy_spec

__all__ = [
    "EVALUATION_LANES",
    "MANIFEST",
    "POLICY_JSON",
    "POLICY_WEIGHTS",
    "Evaluation",
    "Evaluator",
    "Feature",
    "Layer",
    "PlainPolicy",
    "PolicySpec",
    "Run",
    "build_policy_spec",
    "check_evaluable",
    "evaluate",
    "evaluate_constant",
    "evaluate_many",
    "evaluate_targets",
    "raw_score",
    "verify_manifest",
    "write_manifest",
]
