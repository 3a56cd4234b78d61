"""YAML that surprises, and YAML that attacks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tradesweep.errors import SpecError
from tradesweep.spec import list_experiments
from tradesweep.spec.yaml_loader import MAX_BYTES, load_file, parse

pytestmark = pytest.mark.timeout(20)
"""Nothing here may hang; each takes well under a second."""

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4), ("1E-4", 1e-4), ("1e4", 1e4), ("-2.5e+3", -2500.0), (".5", 0.5), ("5.", 5.0), ("+3", 3),
        ("010", 10), ("0", 0), ("-0.0", -0.0), ("0o10", "0o10"), ("0x1F", "0x1F"), ("1_000", "1_000"),
        ("1:30", "1:30"), ("12:30:45", "12:30:45"), ("2020-01-01", "2020-01-01"), ("1e", "1e"), ("1.2.3", "1.2.3"),
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("NO", "NO"), ("y", "y"), ("<<", "<<"),
        ("true", True), ("False", False), ("tRUE", "tRUE"), ("null", None), ("~", None), ("'null'", "null"),
        ("'1e-4'", "1e-4"), ('"5"', "5"), ("nan", "nan"), ("inf", "inf"), ("=", "="), ("é ☃", "é ☃"),
        ("[1, a, [2]]", [1, "a", [2]]), ("{a: 1, 2: b}", {"a": 1, "2": "b"}),
    ],
)  # fmt: skip
def test_a_value_is_what_it_looks_like(written: str, value: object) -> None:
    read = parse(f"key: {written}\n", "x.yaml").value["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"x.yaml:1 must not use an anchor or alias"),
        ("a: &a [*a]", r"x.yaml:1 must not use an anchor"),
        ("k: 1\nb: *a", r"x.yaml:2 must not use an anchor or alias"),
        ("a: " + "[" * 3000, r"x.yaml:1 must be nested at most 20 deep"),
        ("a: " + "[" * 3000 + "]" * 3000, r"x.yaml:1 must be nested at most 20 deep"),
        ("a: " + "{a: " * 100 + "1" + "}" * 100, r"nested at most 20 deep"),
        ("- " * 3000 + "a", r"nested at most 20 deep"),
        ("a: 1\nb:\n  c: 2\n  d: 3\n  c: 4", r"x.yaml:5 b.c must stand once, stands twice, first on line 3; remove"),
        ("a: 1\n'a': 1", r"x.yaml:2 a must stand once"),
        ("k: 1\na: .nan", r"x.yaml:2 a must be a finite number, was .nan"),
        ("a: [0, -.inf]", r"x.yaml:1 a.1 must be a finite number, was -.inf"),
        ("a: 1e999", r"x.yaml:1 a must be a finite number, was 1e999"),
        ("a: 1234567890123456789", r"x.yaml:1 a must have at most 18 digits"),
        ("a: " + "9" * 5000, r"x.yaml:1 a must have at most 18 digits"),
        ("a: 1\n---\nb: 2", r"x.yaml:2 must be one document, has another one here"),
        ("", r"x.yaml:1 must hold a value, is empty"),
        ("# only a comment\n", r"must hold a value, is empty"),
        ("a: !!python/object/apply:os.system [ls]", r"x.yaml:1 must not have a tag, has 'tag:yaml.org,2002:python"),
        ("k: 1\na: !!python/object:os.system {a: 1}", r"x.yaml:2 must not have a tag"),
        ("a: !!int abc", r"must not have a tag"),
        ("a: !!set {x}", r"must not have a tag"),
        ("a: !mine 1", r"must not have a tag, has '!mine'"),
        ("a: 1\n\tb: 2", r"x.yaml:2 must be YAML, is not: .*tab|x.yaml:2 must be YAML, is not: .*'\\t'"),
        ("a: 1\n  b: 2", r"x.yaml:2 must be YAML, is not: mapping values are not allowed here"),
        ("a: [1, 2", r"must be YAML, is not: .*; check indentation and quotes"),
        ('a: "\\UFFFFFFFF"', r"x.yaml:1 must be YAML, is not: bad escape"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1", r"x.yaml:1 must be YAML, is not"),
        ("a: 1\nb: x\0y", r"x.yaml:2 must not hold control characters, has U\+0000"),
        ('k: 1\na: "x\\0y"', r"x.yaml:2 a must not hold control characters, has U\+0000"),
        ('a: "\\e[31m"', r"a must not hold control characters, has U\+001B"),
        ('a: "\\x9b"', r"a must not hold control characters, has U\+009B"),
        ('a: "\\ud800"', r"a must not hold control characters, has U\+D800"),
        ('"a\\nb": 1', r"must have keys of 1 to 100 printable characters, was 'a\\nb'"),
        ('"\\u202Eb": 1', r"must have keys of 1 to 100 printable characters, was '\\u202eb'"),
        ("k" * 300 + ": 1", r"must have keys of 1 to 100 printable characters"),
        ("'': 1", r"must have keys of 1 to 100 printable characters, was ''"),
        ("? [a]\n: 1", r"x.yaml:1 must have words as keys"),
        ("b: {[a]: 1}", r"x.yaml:1 b must have words as keys"),
    ],
)
def test_what_would_surprise_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse(text, "x.yaml")
    assert "\n" not in str(caught.value)


def test_places_name_the_line_of_each_key_and_item() -> None:
    places = parse("a: 1\nb:\n  - x\n  - c: 2\n", "x.yaml").places
    assert {".".join(path): place.line for path, place in places.items()} == {
        "": 1, "a": 1, "b": 2, "b.0": 3, "b.1": 4, "b.1.c": 4,
    }  # fmt: skip


def refuse_file(path: Path, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_file(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xef\xbb\xbfa: 1", r"x.yaml:1 must not begin with a byte-order mark, does; save it as UTF-8 without BOM"),
        ("a: 1\nb: é".encode("latin-1"), r"x.yaml:2 must be UTF-8, has the byte 0xe9; save it as UTF-8"),
        ("a: 1".encode("utf-16"), r"x.yaml:1 must be UTF-8"),
        (b"a: 1\nb: \x00", r"x.yaml:2 must not hold control characters"),
        (b"\x7fELF\x02\x01\x01\x00", r"x.yaml:1 must not hold control characters"),
        (b"#" * (MAX_BYTES + 1), rf"x.yaml: must be at most {MAX_BYTES} bytes"),
        (b"a: x\n" * 2_000_000, r"must be at most"),
    ],
    ids=["byte-order mark", "latin-1", "utf-16", "NUL", "binary", "one byte too many", "10 MB"],
)
def test_a_file_that_is_no_spec_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(raw)
    refuse_file(tmp_path / "x.yaml", message)


def test_windows_line_ends_count_as_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: 1\r\nb: .nan\r\n")
    refuse_file(tmp_path / "x.yaml", "x.yaml:2 b must be a finite number")


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    line = "  - k: [1, 2.5, abc]\n"
    (tmp_path / "x.yaml").write_text("a:\n" + line * (MAX_BYTES // len(line) - 1), encoding="utf-8")
    assert len(load_file(tmp_path / "x.yaml").value["a"]) > 4000


@pytest.mark.parametrize("where", ["experiments.yaml", "sweeps/tiny.yaml"])
def test_folders_pipes_and_missing_files_are_refused_without_being_opened(refuse, root: Path, where: str) -> None:
    path = root / where
    path.unlink()
    assert "must" in refuse()[0]
    path.mkdir()
    assert refuse()[0].startswith(f"{path}: must be a file, is a folder")
    path.rmdir()
    os.mkfifo(path)
    assert refuse()[0].startswith(f"{path}: must be a file, is a pipe, socket or device")
    path.unlink()
    path.symlink_to("/dev/zero")
    assert refuse()[0].startswith(f"{path}: must be a file, is a pipe, socket or device")
    path.unlink()
    path.symlink_to(path)
    assert refuse()[0].startswith(f"{path}: must be readable, is not (Too many levels of symbolic links)")


def test_an_unreadable_file_is_refused(refuse, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert refuse() == [f"{root}/experiments.yaml: must be readable, is not (Permission denied); check its permissions"]


def test_a_root_that_is_no_folder_is_refused(root: Path) -> None:
    for wrong in (root / "nowhere", root / "experiments.yaml", root / ("x" * 5000), root / "a\0b"):
        with pytest.raises(SpecError, match="must"):
            list_experiments(wrong)


def test_a_file_with_thousands_of_unknown_keys_is_refused_in_few_lines(refuse, dqn: str) -> None:
    lines = refuse(sweep=dqn + "".join(f"  key_{number}: 1\n" for number in range(4000)))
    assert len(lines) <= 21
