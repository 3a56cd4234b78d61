"""Whatever is wrong with the input: exit code 2 in under two seconds, a located message, nothing written."""

from __future__ import annotations

import time

import pytest

GOOD_ROWS = "".join(
    f"2020-01-{day:02d},{100 + day},{101 + day},{99 + day},{100.5 + day},1000\n" for day in range(1, 29)
)
HEADER = "date,open,high,low,close,volume\n"

CSV_FILES = {
    "empty": ("", "held 0"),
    "header_only": (HEADER, "bars.csv"),
    "one_row": (HEADER + GOOD_ROWS.splitlines()[0] + "\n", "bars.csv"),
    "missing_column": ("date,open,high,low,volume\n2020-01-01,1,1,1,1\n", "close"),
    "nan": (HEADER + GOOD_ROWS + "2020-01-29,nan,1,1,1,1\n", "row"),
    "blank_cell": (HEADER + GOOD_ROWS + "2020-01-29,,1,1,1,1\n", "row"),
    "high_below_low": (HEADER + GOOD_ROWS + "2020-01-29,100,90,110,100,1\n", "low must be"),
    "negative_price": (HEADER + GOOD_ROWS + "2020-01-29,-1,1,-1,1,1\n", "row"),
    "unsorted": (HEADER + GOOD_ROWS + "2020-01-05,100,101,99,100,1\n", "2020-01-05"),
    "semicolons": (HEADER.replace(",", ";") + GOOD_ROWS.replace(",", ";"), "semicolon"),
    "mixed_dates": (HEADER + GOOD_ROWS + "29/01/2020,100,101,99,100,1\n", "29/01/2020"),
    "mixed_zones": (HEADER + GOOD_ROWS + "2020-01-29T00:00:00+09:00,100,101,99,100,1\n", "row"),
}


@pytest.fixture
def csv_workplace(make_workplace):
    workplace = make_workplace()
    text = (workplace.root / "experiments.yaml").read_text()
    text += """
  mine:
    sweep: tiny_dqn
    features:
      - log_returns: {lags: [1]}
    budget: {trials: 1, env_steps_per_trial: 2000}
"""
    text = text.replace(
        "    source: synthetic\n    name: planted\n    periods_per_year: 252\n"
        "    params: {bars: 2400, rho: 0.5, q: 0.2, seed: 7}\n",
        "    source: csv\n    path: bars.csv\n    periods_per_year: 252\n    timezone: UTC\n",
    )
    (workplace.root / "experiments.yaml").write_text(text)
    return workplace


def check_refused(workplace, *arguments: str) -> str:
    before = sorted(workplace.root.rglob("*"))
    started = time.monotonic()
    done = workplace.run(*arguments, timeout_s=30)
    elapsed_s = time.monotonic() - started
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert sorted(workplace.root.rglob("*")) == before, "nothing was written"
    assert elapsed_s < 10, "a hang, or Ray was started; the two seconds of the promise are measured on a quiet machine"
    return done.stderr


@pytest.mark.parametrize("case", sorted(CSV_FILES))
def test_a_broken_csv_is_refused_by_sweep(csv_workplace, case: str) -> None:
    text, word = CSV_FILES[case]
    (csv_workplace.root / "bars.csv").write_text(text)
    message = check_refused(csv_workplace, "sweep", "mine")
    assert word in message


def test_a_byte_order_mark_is_named(csv_workplace) -> None:
    (csv_workplace.root / "bars.csv").write_bytes(b"\xef\xbb\xbf" + (HEADER + GOOD_ROWS).encode())
    assert "byte-order mark" in check_refused(csv_workplace, "sweep", "mine")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("sweep", "nosuch"), "nosuch"),
        (("sweep", "tiny_dqm"), "did you mean tiny_dqn"),
        (("sweep", "../x"), "../x"),
        (("plan", "/etc/passwd"), "/etc/passwd"),
        (("sweep", "tiny_dqn", "--set", "fixed.n_step=0"), "n_step"),
        (("sweep", "tiny_dqn", "--set", "fixed.leaning_rate=1"), "leaning_rate"),
        (("sweep", "tiny_dqn", "--set", "search.lr={loguniform: [0, 1]}"), "log scale"),
        (("sweep", "tiny_dqn", "--set", "search.lr={uniform: [2, 1]}"), "low"),
        (("sweep", "tiny_dqn", "--set", "search.lr={choice: []}"), "option"),
        (("sweep", "tiny_dqn", "--set", "search.fee_bps={uniform: [0, 1]}"), "never tuned"),
        (("sweep", "tiny_dqn", "--set", "algorithm=sac"), "dqn or ppo"),
        (("sweep", "tiny_dqn", "--set", "resources.cpus_per_trial=999"), "CPUs"),
        (("sweep", "tiny_dqn", "--set", "env.episode_bars=5000"), "episode_bars"),
    ],
)
def test_a_bad_request_is_refused(make_workplace, arguments: tuple[str, ...], word: str) -> None:
    assert word in check_refused(make_workplace(), *arguments)


def test_duplicate_and_unknown_keys_name_file_and_line(make_workplace) -> None:
    workplace = make_workplace()
    path = workplace.root / "sweeps" / "tiny_dqn.yaml"
    path.write_text(path.read_text() + "fixed:\n  lr: 1\n")
    assert "sweeps/tiny_dqn.yaml:10" in check_refused(workplace, "sweep", "tiny_dqn")
