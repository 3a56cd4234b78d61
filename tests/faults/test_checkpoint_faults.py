"""A damaged checkpoint costs an iteration and not the trial, and nothing of it is loaded."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from tests.faults.invariants import check_invariants
from tests.faults.planted import STRIKES_AFTER, Canary
from tests.faults.planting import plant
from tests.faults.sweeps import query

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

DAMAGES = {
    0.81: "a flipped byte",
    0.82: "a truncated file",
    0.83: "the wrong manifest",
    0.84: "canaries in all of them",
}
LAST_GOOD = [STRIKES_AFTER - 1] * 3 + [None]


@pytest.fixture(scope="module")
def swept(make_workplace: Any) -> Any:
    """Each trial dies once, and leaves damaged checkpoints behind."""
    workplace = make_workplace()
    plant(workplace, "damaged", [{"gamma": gamma, "lr": 1e-3} for gamma in DAMAGES], retries=1, concurrent=2)
    done = workplace.run("sweep", "damaged", timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return workplace


def canaries(workplace: Any) -> list[Any]:
    return list(workplace.root.rglob("unpickled"))


def test_a_trial_goes_on_from_its_last_good_checkpoint_or_begins_anew(swept: Any) -> None:
    sql = "select trial_id, attempt, status, resumed_from_iteration from attempts order by trial_id, attempt"
    wanted = []
    for trial_id, iteration in enumerate(LAST_GOOD, start=1):
        wanted += [(trial_id, 1, "CRASHED", None), (trial_id, 2, "FINISHED", iteration)]
    assert query(swept.database, sql) == wanted
    assert not canaries(swept), "nothing was unpickled before its hash was known"


def test_what_ran_after_it_is_superseded_and_all_rules_hold(swept: Any) -> None:
    sql = (
        "select trial_id, max(iteration) from iterations where superseded_by_attempt is null and attempt = 1 group by 1"
    )
    assert query(swept.database, sql) == [(number, last) for number, last in enumerate(LAST_GOOD, start=1) if last]
    sql = "select trial_id, count(*), max(iteration) from effective_iterations group by 1 order by 1"
    assert query(swept.database, sql) == [(number, 8, 8) for number in range(1, len(DAMAGES) + 1)]
    check_invariants(swept.database)
    done = swept.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_log_of_the_trial_names_what_was_damaged(swept: Any) -> None:
    for number in range(len(DAMAGES)):
        (path,) = swept.home.glob(f"sweeps/*/logs/trial-{number:04d}.log")
        text = path.read_text()
        assert f"checkpoint of iteration {STRIKES_AFTER} cannot be used, an older one is looked for" in text
        assert ("policy.safetensors must have" in text) == (number == 1)


def test_a_damaged_winner_is_not_promoted_and_not_loaded(swept: Any) -> None:
    ((path,),) = query(
        swept.database,
        "select c.path from trials t join checkpoints c on c.trial_id = t.trial_id and c.attempt = t.best_attempt"
        " and c.iteration = t.best_iteration order by t.best_sharpe desc, t.trial_no limit 1",
    )
    pickles = list((swept.home / path).rglob("*.pkl"))
    assert pickles
    kept = {pickled: pickled.read_bytes() for pickled in pickles}
    for pickled in pickles:
        pickled.write_bytes(pickle.dumps(Canary(swept.root / "unpickled")))
    done = swept.run("promote", "damaged", "--force", "--reason", "it looks good")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "must have" in done.stdout + done.stderr
    assert not canaries(swept)
    for pickled, raw in kept.items():
        pickled.write_bytes(raw)
