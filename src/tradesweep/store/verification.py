"""Verification: every rule over one consistent state of a database, while others may write to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from tradesweep.errors import CheckpointError
from tradesweep.store.queries import Store
from tradesweep.store.rules import RULES, Rule
from tradesweep.store.scratch import make_scratch

EXAMPLES = 5
"""How many offending rows a result shows."""

CHECKPOINT_FILES = Rule(
    name="checkpoint_files",
    description="every kept checkpoint's files have the hashes of its manifest, and the manifest has the stored one",
    sql="""
        SELECT trial_id, iteration, path, manifest_sha256 FROM v_checkpoints
        WHERE superseded_by_attempt IS NULL AND deleted_at IS NULL
    """,
)

CheckpointCheck = Callable[[str, str], object]
"""Called with a checkpoint's path, relative to the home folder, and its manifest's sha256; raises CheckpointError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleResult:
    """What came of one rule."""

    rule: str
    """Its name."""
    description: str
    """What should hold."""
    passed: bool
    """No row breaks it."""
    violations: int
    """How many rows break it."""
    examples: list[str]
    """The first of them, as `column=value`."""


def verify(
    store: Store,
    sweep_id: str | None = None,
    *,
    check_checkpoint: CheckpointCheck | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[RuleResult]:
    """Check all rules for one sweep, or for all of them; `tell` hears what is begun.

    The rule `checkpoint_files` is only there with `check_checkpoint`, which knows manifests. Raises NotFound for an
    unknown sweep and StoreError when the database cannot be read at all.
    """
    if sweep_id is not None:
        sweep_id = store.get_sweep(sweep_id).sweep_id
    with store.scratch() as db:
        results = check_rules(db, sweep_id, tell)
        if check_checkpoint is not None:
            results.append(_check_files(db, check_checkpoint, tell))
    return results


def check_rules(
    db: Connection, sweep_id: str | None = None, tell: Callable[[str], None] = lambda _: None
) -> list[RuleResult]:
    """Check all rules as that transaction sees the database."""
    make_scratch(db, sweep_id, tell)
    return [_check(rule, db, tell) for rule in RULES]


def _check(rule: Rule, db: Connection, tell: Callable[[str], None]) -> RuleResult:
    tell(f"checking {rule.name}")
    violations, examples = 0, []
    for row in db.execute(text(rule.query(db.dialect.name)), execution_options={"yield_per": 1000}):
        violations += 1
        if violations <= EXAMPLES:
            examples.append(_describe(row._mapping))
    return _result(rule, violations, examples)


def _check_files(db: Connection, check_checkpoint: CheckpointCheck, tell: Callable[[str], None]) -> RuleResult:
    tell(f"checking {CHECKPOINT_FILES.name}")
    examples = []
    for row in db.execute(text(CHECKPOINT_FILES.query(db.dialect.name))):
        try:
            check_checkpoint(row.path, row.manifest_sha256)
        except CheckpointError as error:
            examples.append(f"trial_id={row.trial_id} iteration={row.iteration}: {error}")
    return _result(CHECKPOINT_FILES, len(examples), examples[:EXAMPLES])


def _result(rule: Rule, violations: int, examples: list[str]) -> RuleResult:
    return RuleResult(
        rule=rule.name,
        description=rule.description,
        passed=violations == 0,
        violations=violations,
        examples=examples,
    )


def _describe(row: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in row.items())
