"""The commands `federation` and `bst-artifact-server`, which has BuildStream's options.

Some libraries read settings when they are imported; this module makes these before anything else.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Final

# The distribution `federation` is another project's, and has its files in a folder of this name,
# too: whichever of the two is installed last replaces the other's __init__.py.
if (Path(__file__).parents[1] / "entities").exists():
    sys.exit(
        "federation: the distributions federation and federation-cache are in one environment, and "
        "overwrite each other's files: install them into two"
    )

_SERVES: Final = sys.argv[1:2] in (["serve"], ["worker"]) or "bst-artifact-server" in sys.argv[0]

# gRPC's own log lines are not JSON, and their number has no bound. Only a serving process needs
# them: observability/native_log.py puts them into its log.
if not os.environ.get("GRPC_VERBOSITY"):
    os.environ["GRPC_VERBOSITY"] = "INFO" if _SERVES else "NONE"

# pydantic reads the metadata of every installed package for plugins, which nothing here uses.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# Imports make hundreds of thousands of objects and hardly any garbage: collections in between took
# 15 % of the CPU of a start. A node sets its own thresholds once it is ready (server/process.py).
gc.set_threshold(200_000)

# If rich is installed, structlog imports it for coloured tracebacks, which the log does not use.
# That takes 50 ms of CPU.
if _SERVES:
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

from federation.cli.main import main  # noqa: E402 - see above

__all__ = ["artifact_server", "main"]


def artifact_server() -> None:
    """Run `bst-artifact-server`."""
    from federation.cli.bst_artifact_server import bst_artifact_server  # noqa: PLC0415 - for `federation`

    bst_artifact_server()
