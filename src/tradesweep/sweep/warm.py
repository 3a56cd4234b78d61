"""Imported by worker processes of Ray as they start, before anybody asks them for anything: what trials need.

Ray starts a process for each core at once, and the driver takes seconds to get to its first trial. The recorder's
process needs none of it and says so by `LIGHT`.
"""

import logging
import os

from tradesweep.garbage import not_collecting

with not_collecting():
    from tradesweep.recording import LIGHT

    if LIGHT not in os.environ:
        try:
            import tradesweep.trial.session  # noqa: F401
        except Exception:  # here it would end every process as it comes up; a trial ends by it as what it is
            logging.getLogger(__name__).exception("what trials need could not be imported beforehand")
