"""The documents are executed: commands, specs, queries, tables and links are real."""

from __future__ import annotations

import re
import shlex
import sqlite3
from importlib.resources import files
from pathlib import Path

import pytest
import typer
import yaml

from tradesweep import errors
from tradesweep.cli.main import app
from tradesweep.cli.options import split_settings
from tradesweep.names import SweepStatus
from tradesweep.spec import list_experiments, load_spec
from tradesweep.store import Writer
from tradesweep.store.models import Base
from tradesweep.sweep.plan import make_plan
from tradesweep.sweep.signals import EXIT_CODES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCHEMA = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PROMPTED = ("README.md", "CONTRIBUTING.md")

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ASSIGNMENT = re.compile(r"^[A-Z_]+=")


def blocks(language: str, text: str = README) -> list[str]:
    return [body for kind, body in FENCE.findall(text) if kind == language]


def written_commands() -> list[list[str]]:
    """Every `make ...` and `tradesweep ...` in code blocks and code spans, as words without settings of the shell."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in PROMPTED]
    lines = [line for text in texts for block in blocks("bash", text) for line in block.splitlines()]
    spans = [span for text in texts for span in CODE_SPAN.findall(FENCE.sub("", text))]
    commands = []
    for line in [*lines, *spans]:
        if re.match(r"^([A-Z_]+=\S+ )*(make|tradesweep) ", line):
            words = shlex.split(line, comments=True)
            while ASSIGNMENT.match(words[0]):
                del words[0]
            commands.append(words)
    return commands


COMMANDS = written_commands()
MAKE_COMMANDS = [words for words in COMMANDS if words[0] == "make"]
TRADESWEEP_COMMANDS = [words for words in COMMANDS if words[0] == "tradesweep"]


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def recipe_commands() -> list[list[str]]:
    """The sub-commands that the Makefile calls."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    called = re.findall(r"\$\(TRADESWEEP\) ([a-z-]+(?: reset)?)", makefile)
    return [["tradesweep", *words.split()] for words in called]


def subcommand_of(words: list[str]) -> tuple[typer.core.TyperGroup | typer.core.TyperCommand, list[str]]:
    """The click command that the words name, and the words that are left over."""
    command = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{' '.join(words)}: no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def test_the_documents_name_commands_at_all() -> None:
    assert len(MAKE_COMMANDS) > 15
    assert len(TRADESWEEP_COMMANDS) > 10


@pytest.mark.parametrize("words", MAKE_COMMANDS, ids=" ".join)
def test_every_make_target_that_is_named_exists(words: list[str]) -> None:
    targets = [word for word in words[1:] if not re.match(r"^[A-Z]+=", word)]
    assert targets
    assert set(targets) <= make_targets()


@pytest.mark.parametrize("words", [*TRADESWEEP_COMMANDS, *recipe_commands()], ids=" ".join)
def test_every_command_that_is_named_exists_with_its_options(words: list[str]) -> None:
    command, rest = subcommand_of(words)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in rest if word.startswith("--")} <= known


def test_every_target_for_people_is_in_the_help() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].replace("\\\n", " ").split()) - {"need-exp"} == make_targets()


@pytest.mark.parametrize("experiment", sorted(list_experiments(ROOT)))
def test_every_experiment_loads(experiment: str) -> None:
    spec = load_spec(experiment, root=ROOT)
    assert spec.experiment == experiment
    assert spec.description


def test_every_sweep_file_belongs_to_an_experiment() -> None:
    used = {load_spec(name, root=ROOT).sweep for name in list_experiments(ROOT)}
    assert {path.stem for path in (ROOT / "sweeps").glob("*.yaml")} == used


def test_the_readme_lists_exactly_the_experiments_that_exist() -> None:
    section = README.partition("### The experiments that come with it")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in CODE_SPAN.findall(row)) == sorted(list_experiments(ROOT))


def test_the_example_of_the_readme_is_a_complete_experiment(tmp_path: Path) -> None:
    for block in blocks("yaml"):
        path = tmp_path / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(block, encoding="utf-8")
        yaml.safe_load(block)
    write_own_bars(tmp_path / "data" / "my_bars.csv")
    plan = make_plan(load_spec("my_dqn", root=tmp_path))
    assert plan.trials == 8
    setting = next(words for words in MAKE_COMMANDS if any("search.lr" in word for word in words))[-1]
    overrides = split_settings([setting.removeprefix("SET=")])
    assert make_plan(load_spec("my_dqn", root=tmp_path, overrides=overrides)).trials == 16


def write_own_bars(path: Path) -> None:
    """Real daily bars as a person would have them: the README's columns, ISO dates."""
    import pandas as pd

    frame = pd.read_csv(str(files("arch").joinpath("data", "nasdaq", "nasdaq.csv.gz")))
    frame["time"] = pd.to_datetime(frame["Date"], format="%m/%d/%Y").dt.strftime("%Y-%m-%d")
    path.parent.mkdir()
    frame.rename(columns=str.lower)[["time", "open", "high", "low", "close", "volume"]].to_csv(path, index=False)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    path = tmp_path_factory.mktemp("store") / "tradesweep.db"
    Writer(path).close()
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def test_every_query_of_the_readme_runs(empty_store: sqlite3.Connection) -> None:
    queries = [query for block in blocks("sql") for query in block.split(";") if query.strip()]
    assert len(queries) >= 3
    for query in queries:
        empty_store.execute(query).fetchall()


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    Writer(tmp_path / "runs" / "tradesweep.db").close()
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        names: dict[str, object] = {}
        exec(compile(block, "README.md", "exec"), names)
        assert list(names["steps"].columns)[:3] == ["episode_no", "t", "mark_time"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("table", sorted(Base.metadata.tables))
def test_every_column_is_in_the_schema_page(table: str) -> None:
    section = SCHEMA.partition(f"\n## {table}\n")[2].partition("\n## ")[0]
    columns = Base.metadata.tables[table].columns
    assert {column.name for column in columns} <= set(CODE_SPAN.findall(section))
    marked = set(re.findall(r"`(\w+)`\?", section))
    assert {column.name for column in columns if column.nullable} == marked


def test_every_view_is_in_the_schema_page(empty_store: sqlite3.Connection) -> None:
    views = {name for (name,) in empty_store.execute("SELECT name FROM sqlite_master WHERE type = 'view'")}
    section = SCHEMA.partition("\n## Views\n")[2].partition("\n## ")[0]
    assert views
    assert views <= set(CODE_SPAN.findall(section))


def test_every_sweep_status_is_in_the_schema_page() -> None:
    assert ", ".join(SweepStatus) in SCHEMA


def test_the_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    raised = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)}
    table = README.partition("| exit code | meaning |")[2].partition("\n\n")[0]
    written = {int(code) for row in table.splitlines()[2:] for code in row.split("|")[1].split(",")}
    assert written == {0, *raised, *EXIT_CODES.values()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_resolves(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if target.startswith(("https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file) if file else document
        assert path.exists(), f"{document.name}: {target}"
        if anchor:
            assert anchor in anchors_of(path), f"{document.name}: {target}"


def anchors_of(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = {path.name for path in folder.glob("[0-9]*.md")}
    assert pages == set(LINK.findall((folder / "README.md").read_text(encoding="utf-8")))
