"""Trials in warm processes, and a driver that trains nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray


def run_python(program: str) -> str:
    """What the program prints, in a process without a Ray of its own."""
    clean = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


DRIVER = """
import sys
import tradesweep.sweep.run, tradesweep.sweep.tuning
print(sorted({"torch", "ray.rllib", "mlflow"} & sys.modules.keys()))
"""


def test_the_driver_imports_neither_torch_nor_rllib() -> None:
    assert run_python(DRIVER) == "[]\n"


BROKEN = """
import sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "tradesweep.trial.session":
            raise OSError("no such library")

sys.meta_path.insert(0, Broken())
import tradesweep.sweep.warm
print("alive")
"""


def test_what_cannot_be_imported_beforehand_is_for_the_trial_to_say() -> None:
    assert run_python(BROKEN) == "alive\n"


SESSION = """
import json, os, sys, tempfile, time
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tradesweep.home import DatabaseAddress
from tradesweep.recording import create_recorder
from tradesweep.sweep.cluster import ray_session
from tradesweep.sweep.leftovers import processes_of, session_folders
from tradesweep.sweep.tuning import PlainActors

class Trial:
    def look(self):
        return os.getpid(), "tradesweep.trial.session" in sys.modules

def idle(processes):
    return [process.pid for process in processes if "ray::IDLE" in process.cmdline()[0]]

with ray_session(cpus=2, gpus=0):
    mine = [folder for folder in session_folders() if folder.name.startswith(f"ts-{os.getpid()}-")]
    deadline = time.monotonic() + 60
    while len(idle(processes_of(mine)[mine[0]])) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    processes = processes_of(mine)[mine[0]]
    words = [" ".join(process.cmdline()) for process in processes]
    free = idle(processes)
    groups = [os.getpgid(process.pid) for process in processes]
    with tempfile.TemporaryDirectory() as folder:
        recorder = create_recorder(DatabaseAddress(f"sqlite:///{folder}/a.db"), name="one")
        [light] = [
            process for process in processes_of(mine)[mine[0]] if "RecorderActor" in " ".join(process.cmdline())
        ]
        light_is_warm = any("libtorch" in file.path for file in light.memory_maps())
        actors = PlainActors()
        group = placement_group([{"CPU": 1}] * 2)  # takes all CPUs, as Tune's do before they have a trial
        group.wait(60)
        time.sleep(1.5)  # longer than Ray by itself bears with processes that have nothing to do
        in_group = PlacementGroupSchedulingStrategy(group)
        trial = actors.get(Trial).options(num_cpus=1, scheduling_strategy=in_group).remote()
        pid, is_warm = ray.get(trial.look.remote())
        recorder.close(10)
    found = {"idle": free, "words": words, "pid": pid, "is_warm": is_warm, "light_is_warm": light_is_warm}
    print(json.dumps(found | {"in_our_group": os.getpgid(0) in groups, "same": actors.get(Trial) is actors.get(Trial)}))
"""


def test_a_session_has_few_servers_and_trials_get_its_warm_processes() -> None:
    found = json.loads(run_python(SESSION))
    for needless in ("dashboard/dashboard.py", "monitor.py", "log_monitor.py"):
        assert not any(needless in words for words in found["words"]), needless
    assert any("gcs_server" in words for words in found["words"]), "the processes were looked at"
    assert found["pid"] in found["idle"], "no process was started for the trial"
    assert found["is_warm"]
    assert not found["light_is_warm"], "the recorder trains nothing"
    assert not found["in_our_group"], "a signal to the command's group is the driver's to handle"
    assert found["same"]
