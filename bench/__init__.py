"""Measured comparisons; each module with a `main` is one command: `python -m bench.NAME`.

The clusters of these have a place of their own, so that no demo cluster is touched: the variable must be
set before `swarmpy.node.demo` is imported, and this is imported before everything else here.
"""

import os

STATE_ROOT = "/var/lib/swarmpy-bench"
os.environ["SWARMPY_DEMO_ROOT"] = STATE_ROOT
