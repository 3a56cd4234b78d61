"""The one way in which functions here become machine code: Numba, at the first call, kept on disk for the next process.

Importing this module imports Numba, a third of a second. So it is imported by the modules of compiled functions alone,
and those only where something is about to run.

Floating point is IEEE's, operation by operation: `fastmath` is off, so that nothing is reordered or contracted and the
bits do not depend on the processor; a division by zero gives what NumPy gives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])
ROOMS = ("agents", "env", "policy")
"""The packages whose compiled functions are called from other files."""


def compiled(function: Function) -> Function:
    """The same function as machine code. Its arguments' types are those of the first call; others compile anew."""
    compile_later: Any = partial(njit, nogil=True, error_model="numpy", fastmath=False)
    try:
        made: Any = compile_later(function, cache=True)
    except RuntimeError:  # nowhere to keep it: a read-only tree and no home
        return cast(Function, compile_later(function))
    # Numba looks at the file of a function alone, and would go on with what the function called in other files. The
    # hash is part of the files' names and not of what is in them: a process that is killed between index and code
    # leaves a new index, which must not lead to the old code.
    kept = made._cache._cache_file
    name = f"{kept._index_name.removesuffix('.nbi')}-{hash_sources(Path(__file__).parent.parent)[:16]}"
    made._cache._cache_file = type(kept)(kept._cache_path, name, kept._source_stamp)
    return cast(Function, made)


@cache
def hash_sources(package: Path) -> str:
    """A hash of all modules that hold such functions, or constants that became part of one."""
    files = sorted(file for room in ROOMS for file in (package / room).glob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
