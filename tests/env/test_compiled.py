"""Compiled functions: when Numba is imported, where machine code is kept and when it is forgotten, and its bits."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

SOURCE = """
from tradesweep.env.compiled import compiled

@compiled
def twice(x):
    return 2.0 * x
"""
EARLY = """
import sys
import numpy as np
import tradesweep.env, tradesweep.policy
from tradesweep.env import ObservationBuilder
observer = ObservationBuilder(np.zeros((5, 2), np.float32), positions=(0.0, 1.0), window_bars=2, lanes=3)
assert observer.width == 9
sys.exit("numba" in sys.modules)
"""
BITS = """
import sys
import numpy as np
from tradesweep.policy.forward import score_rows
from tradesweep.policy.network import Network

rng = np.random.default_rng(0)
weights_P, blank_Z = rng.standard_normal(37 * 33) / 6, np.concatenate([np.zeros(37), rng.standard_normal(33)])
network = Network(weights_P, np.array([(0, 37, 37, 33, 0, 2)]), blank_Z, scores=37, value=-1, actions=33)
scores_EA = score_rows(network, np.zeros((40, 0)), rng.standard_normal((40, 37)))
np.save(sys.argv[1], scores_EA.view(np.int64))
"""


def load_module(path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "some_functions.py"
    path.write_text(SOURCE)
    return path


def test_light_commands_do_not_wait_for_numba():
    subprocess.run([sys.executable, "-c", EARLY], check=True)


def test_machine_code_is_kept_for_the_next_process(source):
    assert load_module(source).twice(3.0) == 6.0
    again = load_module(source).twice
    assert again(3.0) == 6.0
    assert sum(again.stats.cache_hits.values()) == 1


def test_machine_code_is_forgotten_when_its_file_changes(source):
    assert load_module(source).twice(3.0) == 6.0
    source.write_text(SOURCE.replace("2.0", "3.0"))
    assert load_module(source).twice(3.0) == 9.0


def test_machine_code_is_forgotten_when_any_function_may_be_another(source, monkeypatch):
    load_module(source).twice(3.0)
    monkeypatch.setattr("tradesweep.env.compiled.hash_sources", lambda package: "another")
    again = load_module(source).twice
    assert again(3.0) == 6.0
    assert not again.stats.cache_hits


def test_a_process_that_dies_between_index_and_code_leaves_no_old_code_behind(source, monkeypatch):
    from numba.core.caching import IndexDataCacheFile

    assert load_module(source).twice(3.0) == 6.0
    source.write_text(SOURCE.replace("2.0", "3.0"))
    monkeypatch.setattr("tradesweep.env.compiled.hash_sources", lambda package: "another")
    with monkeypatch.context() as dying:
        dying.setattr(IndexDataCacheFile, "_save_data", lambda *_: None)
        assert load_module(source).twice(3.0) == 9.0
    assert load_module(source).twice(3.0) == 9.0


def test_a_change_in_any_module_of_the_rooms_is_one(tmp_path):
    from tradesweep.env.compiled import ROOMS, hash_sources

    hashes = set()
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text("LIMIT = 1\n")
    for room in ("", *ROOMS):
        if room:
            (tmp_path / room / "a.py").write_text("LIMIT = 2\n")
        hash_sources.cache_clear()
        hashes.add(hash_sources(tmp_path))
    assert len(hashes) == 1 + len(ROOMS)


def test_without_a_place_for_machine_code_it_is_made_anew(source, monkeypatch):
    from numba.core.caching import CacheImpl

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    twice = load_module(source).twice
    assert twice(3.0) == 6.0
    assert not list(source.parent.glob("**/*.nbc"))


@pytest.mark.slow
def test_bits_do_not_depend_on_the_processor(tmp_path):
    """What is compiled for a processor without vectors and fused operations gives the same numbers."""
    for processor in ("host", "generic"):
        env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / processor)}
        env |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""} if processor == "generic" else {}
        subprocess.run([sys.executable, "-c", BITS, str(tmp_path / processor)], check=True, env=env)
    host, generic = (np.load(tmp_path / f"{processor}.npy") for processor in ("host", "generic"))
    np.testing.assert_array_equal(host, generic)
