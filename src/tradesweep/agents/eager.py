"""Torch without its compiler.

Nothing here is compiled by torch, but building an optimizer and seeding imports `torch._dynamo` and `torch._inductor`:
over a second of every trial's and runner's start, and 75 MB. Both need it only to tell the compiler to stay away.
"""

from __future__ import annotations

from typing import Any

import torch


def keep_compiler_out() -> None:
    """Build optimizers and seed in this process without the compiler; what they compute stays the same.

    Where torch works otherwise than expected, this has no effect, and the compiler is imported.
    """
    for method in vars(torch.optim.Optimizer).values():
        bare = getattr(method, "__wrapped__", None)
        if bare is not None:  # as torch._compile keeps what the compiler made of a method to be left alone: nothing
            bare.__dict__.setdefault("__dynamo_disable", bare)
    torch.use_deterministic_algorithms = use_deterministic_algorithms


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> Any:
    """As torch's, for all that is not compiled."""
    return torch._C._set_deterministic_algorithms(mode, warn_only=warn_only)
