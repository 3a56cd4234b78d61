"""Imported by worker processes of Ray as they start, before anybody asks them for anything: what trials need.

Ray starts a process for each core at once, and the driver takes seconds to get to its first trial. The recorder's
process needs none of it and says so by `LIGHT`.
"""

import os

from tradesweep.recording import LIGHT

if LIGHT not in os.environ:
    import tradesweep.trial.session  # noqa: F401
