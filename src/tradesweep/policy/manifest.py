"""Manifests: what a folder holds, sealed by hashes; checked before anything in it is loaded.

`MANIFEST.json` is written last, and appears at once or not at all: a folder without one is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tradesweep.errors import CheckpointError

MANIFEST = "MANIFEST.json"
FORMAT_VERSION = 1
_UNFINISHED = ".MANIFEST.json.tmp"
_FLUSHES_AT_A_TIME = 8


def write_manifest(folder: Path, extra: Mapping[str, Any]) -> str:
    """Write the manifest of all files in `folder`, with `extra` (JSON values) as its facts; return its sha256.

    Files and folders are on disk before the manifest is. Raises CheckpointError for a link or a device in the tree.
    """
    (folder / _UNFINISHED).unlink(missing_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {name: _describe(folder / name) for name in _list_files(folder)}
    _flush_all([folder, *folder.rglob("*")])
    manifest = {"format_version": FORMAT_VERSION, "files": files, "facts": dict(extra)}
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode()
    _write_atomically(folder, text)
    return hashlib.sha256(text).hexdigest()


def verify_manifest(folder: Path, expected_sha256: str | None) -> dict[str, Any]:
    """Check every file of `folder` against its manifest and return the manifest; nothing else is read or loaded.

    `expected_sha256` is the manifest's own hash where it is known (the store has it). Raises CheckpointError when
    the manifest is missing, damaged or another one, and when a file is missing, changed, or not listed.
    """
    text = _read_manifest(folder)
    digest = hashlib.sha256(text).hexdigest()
    if expected_sha256 is not None and digest != expected_sha256:
        raise CheckpointError(
            f"{folder / MANIFEST} must have sha256 {expected_sha256}, was {digest}; it is not what was published"
        )
    manifest = _parse(folder, text)
    _check_names(folder, manifest["files"])
    for name, listed in manifest["files"].items():
        _check_file(folder / name, listed)
    return manifest


def _list_files(folder: Path) -> list[str]:
    """Names of all files in the tree but the manifest, relative, in order."""
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"{path} must be a plain file or a folder; links are not part of a checkpoint")
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (MANIFEST, _UNFINISHED):
            names.append(name)
    return names


def _describe(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def _write_atomically(folder: Path, text: bytes) -> None:
    unfinished = folder / _UNFINISHED
    with unfinished.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / MANIFEST)
    _flush(folder)


def _flush_all(paths: Sequence[Path]) -> None:
    """Files and folders, many at a time: a journal writes what waits together at once, one after the other each."""
    with ThreadPoolExecutor(_FLUSHES_AT_A_TIME) as threads:
        list(threads.map(_flush, paths))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_manifest(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as e:
        raise CheckpointError(
            f"{folder} must hold a {MANIFEST}, it cannot be read ({e.strerror}); it was never finished: use another"
        ) from e


def _parse(folder: Path, text: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
        version, files = manifest["format_version"], manifest["files"]
        known = version == FORMAT_VERSION and isinstance(manifest["facts"], dict)
        known = known and all({"bytes", "sha256"} == set(listed) for listed in files.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: {type(e).__name__}: {e}") from e
    if not known:
        raise CheckpointError(f"{folder / MANIFEST} must have format version {FORMAT_VERSION}, was {version!r}")
    return dict(manifest)


def _check_names(folder: Path, listed: Mapping[str, Any]) -> None:
    found = set(_list_files(folder))
    for wrong, rule in ((set(listed) - found, "must exist"), (found - set(listed), "must be listed")):
        if wrong:
            raise CheckpointError(f"{folder / min(wrong)} {rule} by {MANIFEST}; {len(wrong)} such in all")


def _check_file(path: Path, listed: Mapping[str, Any]) -> None:
    try:
        found = _describe(path)
    except OSError as e:
        raise CheckpointError(f"{path} must be readable, is not ({e.strerror}); use another checkpoint") from e
    for key in ("bytes", "sha256"):
        if found[key] != listed[key]:
            raise CheckpointError(f"{path} must have {key} {listed[key]}, was {found[key]}; the file was changed")
