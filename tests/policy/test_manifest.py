import hashlib
import json
import os
from pathlib import Path

import pytest

from tradesweep.errors import CheckpointError
from tradesweep.policy import MANIFEST, verify_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "checkpoint"
    (root / "rllib" / "learner").mkdir(parents=True)
    (root / "policy.json").write_text("{}")
    (root / "rllib" / "learner" / "state.pkl").write_bytes(b"\x80\x05state")
    (root / "rllib" / "empty").touch()
    return root


def test_manifest_lists_every_file_with_size_and_hash(folder):
    sha256 = write_manifest(folder, {"iteration": 3, "validation_sharpe": None})
    manifest = verify_manifest(folder, sha256)
    assert manifest["facts"] == {"iteration": 3, "validation_sharpe": None}
    assert sorted(manifest["files"]) == ["policy.json", "rllib/empty", "rllib/learner/state.pkl"]
    expected = {"bytes": 7, "sha256": hashlib.sha256(b"\x80\x05state").hexdigest()}
    assert manifest["files"]["rllib/learner/state.pkl"] == expected
    assert sha256 == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def test_manifest_verifies_without_its_own_hash(folder):
    write_manifest(folder, {})
    assert verify_manifest(folder, None)["files"]


def test_writing_again_after_a_change_verifies_again(folder):
    first = write_manifest(folder, {})
    (folder / "policy.json").write_text("{ }")
    second = write_manifest(folder, {})
    assert first != second
    verify_manifest(folder, second)


def test_a_folder_without_a_manifest_is_not_a_checkpoint(folder):
    with pytest.raises(CheckpointError, match="never finished"):
        verify_manifest(folder, None)
    with pytest.raises(CheckpointError, match="cannot be read"):
        verify_manifest(folder / "nowhere", None)


def flip_a_bit(root):
    path = root / "rllib" / "learner" / "state.pkl"
    path.write_bytes(b"\x80\x05statf")


def cut_a_file(root):
    (root / "policy.json").write_text("{")


def remove_a_file(root):
    (root / "rllib" / "empty").unlink()


def add_a_file(root):
    (root / "rllib" / "extra.pkl").write_bytes(b"cos\nsystem\n")


def link_a_file(root):
    (root / "policy.json").unlink()
    (root / "policy.json").symlink_to("/dev/null")


def link_a_folder(root):
    (root / "elsewhere").symlink_to(root.parent)


def add_a_fifo(root):
    os.mkfifo(root / "pipe")


@pytest.mark.parametrize(
    ("corrupt", "rule"),
    [
        (flip_a_bit, "state.pkl must have sha256"),
        (cut_a_file, "policy.json must have bytes 2, was 1"),
        (remove_a_file, "empty must exist"),
        (add_a_file, "extra.pkl must be listed"),
        (link_a_file, "must be a plain file"),
        (link_a_folder, "must be a plain file"),
        (add_a_fifo, "must be a plain file"),
    ],
)
def test_every_corruption_is_named(folder, corrupt, rule):
    sha256 = write_manifest(folder, {})
    corrupt(folder)
    with pytest.raises(CheckpointError, match=rule):
        verify_manifest(folder, sha256)


def test_another_manifest_is_refused_even_when_it_fits_its_files(folder):
    published = write_manifest(folder, {"iteration": 1})
    write_manifest(folder, {"iteration": 2})
    with pytest.raises(CheckpointError, match="not what was published"):
        verify_manifest(folder, published)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format_version": 1}',
        b'{"format_version": 2, "files": {}, "facts": {}}',
        b'{"format_version": 1, "files": [], "facts": {}}',
        b'{"format_version": 1, "files": {"a": 1}, "facts": {}}',
        b'{"format_version": 1, "files": {"a": {"bytes": 1}}, "facts": {}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_refused(folder, text):
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(CheckpointError, match=r"damaged|format version"):
        verify_manifest(folder, None)


def test_a_manifest_cannot_name_files_outside_its_folder(folder):
    write_manifest(folder, {})
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../secret"] = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    (folder.parent / "secret").touch()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="must exist"):
        verify_manifest(folder, None)


def test_an_interrupted_write_leaves_no_manifest(folder, monkeypatch):
    write_manifest(folder, {})

    def lost(descriptor):
        raise OSError("disk gone")

    monkeypatch.setattr(os, "fsync", lost)
    with pytest.raises(OSError, match="disk gone"):
        write_manifest(folder, {})
    with pytest.raises(CheckpointError, match="never finished"):
        verify_manifest(folder, None)


def test_facts_must_be_numbers_that_json_knows(folder):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_manifest(folder, {"validation_sharpe": float("nan")})
    assert not (folder / MANIFEST).exists()


def test_a_file_that_cannot_be_read_is_refused_and_named(folder, monkeypatch):
    write_manifest(folder, {})
    opened = Path.open

    def fail(path, *arguments, **named):
        if path.name == "state.pkl":
            raise OSError(5, "Input/output error")
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(
        CheckpointError, match=r"state.pkl must be readable, is not \(Input/output error\); use another"
    ):
        verify_manifest(folder, None)
