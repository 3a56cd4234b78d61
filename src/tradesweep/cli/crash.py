"""What nobody expected is kept as a file: people see one line, whoever mends it sees the traceback."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tradesweep import __version__
from tradesweep.home import Home


def write_crash(error: BaseException, words: Sequence[str]) -> Path:
    """Write the traceback under the home folder, or where that cannot be written under the system's temporary one."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    text = "\n".join(
        [
            f"tradesweep {__version__}, Python {sys.version}",
            f"command: tradesweep {' '.join(words)}",
            "",
            *traceback.format_exception(error),
        ]
    )
    for folder in (Home.from_environment(root_of(words)).path / "crashes", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"tradesweep-{stamp}-{os.getpid()}.log"
            path.write_text(text, encoding="utf-8")
        except OSError:
            continue
        return path
    return Path("nowhere: no folder could be written")


def root_of(words: Sequence[str]) -> Path:
    """The root the command was given: --root, TRADESWEEP_ROOT, or the working directory."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--root":
            return Path(following)
        if word.startswith("--root="):
            return Path(word.removeprefix("--root="))
    return Path(os.environ.get("TRADESWEEP_ROOT") or ".")
