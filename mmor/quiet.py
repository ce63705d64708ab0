"""Other libraries do not speak in our commands: their warnings and log lines tell a user nothing that could be done.

What matters in them is said by ours: errors become one line, and settings are checked before they reach a library.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings


def quiet_libraries() -> None:
    """Silence all but errors of libraries, unless the user asks Python for warnings (`-W`, PYTHONWARNINGS).

    Called once, at the start of the command line; processes that this one starts inherit the environment and do the
    same. Nothing of ours goes through `logging` or `warnings`.
    """
    if sys.warnoptions and os.environ.get("PYTHONWARNINGS") != "ignore":
        return
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"  # for processes that read data or simulate, which do not come through here
    logging.disable(logging.WARNING)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
