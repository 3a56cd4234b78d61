"""Run benchmarks and show what they found.

python -m benchmarks                        # all of them
python -m benchmarks recording verify       # these
python -m benchmarks recording --quick --json
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module

from benchmarks.common import Options, Report

BENCHMARKS = ("recording", "memory", "verify", "overhead", "trials", "kernel", "training", "sweeps", "learning")
"""Modules of this package, in the order they run."""


def main() -> None:
    arguments = parse()
    options = Options(quick=arguments.quick, full=arguments.full, repeats=arguments.repeats, db_url=arguments.db_url)
    reports = [measure(name, options, arguments.json) for name in arguments.names or BENCHMARKS]
    if arguments.json:
        print(json.dumps([report.to_dict() for report in reports]))


def measure(name: str, options: Options, as_json: bool) -> Report:
    module = import_module(f"benchmarks.{name}")
    report = Report(name=name, title=module.TITLE, rows=module.run(options))
    if not options.quick:
        report.save()
    if not as_json:
        print(report.to_markdown(), flush=True)
    return report


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast, how much memory.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all without one")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing saved: does it run at all?")
    parser.add_argument("--full", action="store_true", help="the sizes of the goals, also where they take long")
    parser.add_argument("--repeats", type=int, help="measure each thing so often")
    parser.add_argument("--db-url", help="measure PostgreSQL too: postgresql://user:password@host/an_empty_database")
    parser.add_argument("--json", action="store_true", help="JSON in the place of tables")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"{', '.join(sorted(unknown))}: benchmarks are {', '.join(BENCHMARKS)}")
    return arguments


if __name__ == "__main__":
    main()
