"""torch's compiler stays out of processes that train."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAIN = """
import sys
import torch
from tradesweep.agents.eager import keep_compiler_out
from ray.rllib.utils.torch_utils import set_torch_seed
from tradesweep.agents.flat import FlatWeights

{first}
set_torch_seed(1)
assert torch.are_deterministic_algorithms_enabled()
weights = [torch.nn.Parameter(torch.ones(3))]
optimizer = torch.optim.Adam(weights, fused=True)
with torch.no_grad():
    flat = FlatWeights(weights, optimizer)
    flat.lend_gradients()
    flat.step()
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules or "torch._inductor" in sys.modules)
"""


@pytest.mark.parametrize(("first", "is_there"), [("keep_compiler_out()", "False"), ("", "True")])
def test_optimizers_are_built_without_the_compiler(first: str, is_there: str) -> None:
    words = [sys.executable, "-c", TRAIN.format(first=first)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, f"{is_there}\n"), done.stderr
