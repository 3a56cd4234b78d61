"""The exception tree.

    TradesweepError              exit 1   everything this package raises on purpose
    |-- BadInput (ValueError)    exit 2   a person can mend it: spec, data, arguments
    |   |-- SpecError                     experiments.yaml, sweeps/*.yaml, --set
    |   |-- MarketError                   bars that break a rule of the market page
    |   `-- NotFound                      an experiment, sweep, trial or model that does not exist
    |-- Refused                  exit 3   the gate, or a rule that protects results, says no
    |-- StoreError               exit 1   the database cannot do what was asked
    |   |-- StoreUnavailable              it cannot be reached or written just now: the same call may succeed later
    |   |   `-- StoreLocked               another process owns the database
    |   `-- SchemaMismatch                a newer, older or foreign database
    |-- RecordingError           exit 1   rows could not be handed to the recorder
    |   |-- Fenced                        a newer incarnation of this producer exists
    |   `-- RecorderUnavailable           no answer within db_timeout_s
    |-- CheckpointError          exit 1   a manifest is missing or a hash differs
    `-- TrialDiverged            exit 1   weights, loss, reward or observation is not finite

A message says where, which rule, which value, and what to do about it.
"""

from __future__ import annotations


class TradesweepError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class BadInput(TradesweepError, ValueError):
    """Something a person wrote is wrong; nothing was started and nothing was written."""

    exit_code = 2


class SpecError(BadInput):
    """A spec breaks a rule. The message starts with `file:line key.path`."""


class MarketError(BadInput):
    """Market data breaks a rule. The message starts with the source and the row."""


class NotFound(BadInput):
    """A named thing does not exist; the message lists what does."""


class Refused(TradesweepError):
    """The gate, or a rule that protects results, says no."""

    exit_code = 3


class StoreError(TradesweepError):
    """The database cannot do what was asked."""


class StoreUnavailable(StoreError):
    """The database cannot be reached or written just now; the same call may succeed later."""


class StoreLocked(StoreUnavailable):
    """Another process owns the database; the message names it."""


class SchemaMismatch(StoreError):
    """The database is newer, older or not ours."""


class RecordingError(TradesweepError):
    """Rows could not be handed to the recorder."""


class Fenced(RecordingError):
    """A newer incarnation of this producer exists; this one must stop."""


class RecorderUnavailable(RecordingError):
    """The recorder gave no answer within `db_timeout_s`."""


class CheckpointError(TradesweepError):
    """A checkpoint has no manifest, or a file differs from its manifest."""


class TrialDiverged(TradesweepError):
    """Weights, loss, reward or observation is not finite."""
