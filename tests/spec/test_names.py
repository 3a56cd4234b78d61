"""Names that become paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from tradesweep.errors import NotFound, SpecError
from tradesweep.spec import PromotionSpec, check_name, list_experiments, load_spec

BAD = [
    "../x", "/abs", "a/b", "a\\b", ".", "..", ".hidden", "-x", "_x", "`id`", "$(id)", "a\nb", "a\n", "\na", "a\r",
    "a\0", "\u202egnp.exe", "x" * 65, "x" * 300, "'; DROP TABLE runs;--", "<script>", "a b", "a ", "", "☃", "é",
    "e\u0301", "٣", "a\u200b", "a:b", "a%2fb", "~",
]  # fmt: skip
GOOD = ["x", "X9", "0", "a.b-c_d", "CON", "x" * 64]


def snapshot(folder: Path) -> set[Path]:
    return set(folder.parent.rglob("*"))


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_could_leave_its_folder_is_refused_and_nothing_is_made(root: Path, name: str) -> None:
    before = snapshot(root)
    with pytest.raises(SpecError, match="experiment must be 1 to 64 letters, digits") as caught:
        load_spec(name, root=root)
    assert str(caught.value).isprintable()
    assert snapshot(root) == before


@pytest.mark.parametrize("name", BAD)
def test_the_same_names_are_refused_as_sweep_and_as_model(load, name: str) -> None:
    quoted = "".join(f"\\U{ord(character):08x}" for character in name)
    with pytest.raises(SpecError, match=r"must (name a file of sweeps/|not hold control)"):
        load(f'sweep="{quoted}"')
    with pytest.raises(SpecError, match=r"must (be 1 to 64 letters|not hold control)") as caught:
        load(f'promotion.model="{quoted}"')
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", BAD)
def test_the_same_names_are_refused_by_the_model_itself(load, name: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 64 letters"):
        PromotionSpec(model=name)
    with pytest.raises(SpecError, match="thing must be 1 to 64 letters"):
        check_name(name, "thing")


@pytest.mark.parametrize("name", GOOD)
def test_other_names_pass(load, name: str) -> None:
    assert check_name(name, "thing") == name
    assert load(f'promotion.model="{name}"').promotion.model == name


def test_an_experiment_in_the_file_with_a_bad_name_is_refused_with_its_line(root: Path, experiments: str) -> None:
    (root / "experiments.yaml").write_text(experiments.replace("  tiny:", "  ../tiny:"), encoding="utf-8")
    with pytest.raises(SpecError, match=r"experiments.yaml:7 experiments.../tiny must be 1 to 64 letters"):
        list_experiments(root)


def test_an_unknown_experiment_is_not_found_and_a_close_one_is_offered(root: Path) -> None:
    with pytest.raises(NotFound, match=r"experiment tny is not in experiments.yaml; did you mean tiny\?"):
        load_spec("tny", root=root)


def test_a_sweep_that_is_missing_is_refused_with_what_exists(refuse) -> None:
    assert refuse("sweep=tinny") == [
        "--set sweep=tinny sweep must name a file of sweeps/ without its ending, was tinny; did you mean tiny?"
    ]
