"""For all tests: one thread, here and in the processes tests start.

Sums of two threads differ from those of one in their last bits, and tests compare runs of several processes to the
bit. The products are small, so that one thread is also the fastest. Set before torch is imported.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
