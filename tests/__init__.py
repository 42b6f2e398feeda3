"""The tests. Importing this package makes the process keep bytecode, whatever it was told.

Each process of a test run would otherwise compile the program and all tests anew: five seconds of
CPU. It is kept apart, in a folder that git ignores, as for the processes that tests start.
"""

import sys
from pathlib import Path

if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
