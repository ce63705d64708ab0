"""What both stages share: takes, graphs, files, the machine.

Importing it makes sure that no library loads code from a model hub. With the package `kernels`, bitsandbytes would do
so when it is imported and transformers when a model is built; for them it is not installed.
"""

import logging
import os
import sys

os.environ["USE_HUB_KERNELS"] = "NO"
sys.modules["kernels"] = None  # ty: ignore[invalid-assignment]  # an import fails as if it were not there
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it warns that it found none
