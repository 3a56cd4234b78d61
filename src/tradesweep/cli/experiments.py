"""`tradesweep experiments`: what can be swept."""

from __future__ import annotations

from pathlib import Path

from tradesweep.cli.options import JsonOption, RootOption, check_root
from tradesweep.cli.output import cut, format_table, print_json, print_lines


def experiments(root: RootOption = Path(), json_: JsonOption = False) -> None:
    """List the experiments of experiments.yaml."""
    from tradesweep.spec import list_experiments

    found = list_experiments(check_root(root))
    if json_:
        print_json({"experiments": [{"name": name, "description": text} for name, text in found.items()]})
        return
    table = format_table(("experiment", "description"), list(found.items()), left=(0, 1))
    print_lines([cut(line) for line in table])
