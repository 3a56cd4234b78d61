"""tradesweep: hyperparameter sweeps for reinforcement-learning trading agents."""

__version__ = "0.1.0"
