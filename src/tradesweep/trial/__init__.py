"""One trial: train a point, evaluate it, publish its checkpoints, and say everything to the recorder."""

from tradesweep.trial.assignment import Assignment, ResumePoint, SweepContext, derive_seed
from tradesweep.trial.trainable import TrialTrainable

__all__ = ["Assignment", "ResumePoint", "SweepContext", "TrialTrainable", "derive_seed"]
