"""The command line: `federation`, and `bst-artifact-server` for those who know that one.

Libraries look at some settings when they are imported; these are made here, before anything else.
"""

import gc
import os
import sys
from typing import Final

_SERVES: Final = sys.argv[1:2] in (["serve"], ["worker"]) or "bst-artifact-server" in sys.argv[0]

# gRPC's own log lines are no JSON and have no bound. Only a serving process has use for them, and
# native_log.py in their way.
if not os.environ.get("GRPC_VERBOSITY"):
    os.environ["GRPC_VERBOSITY"] = "INFO" if _SERVES else "NONE"

# pydantic reads the metadata of every installed package for plugins, which nothing here uses.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# Imports make several 100,000 objects and hardly any garbage: collections in between took 15 % of
# the CPU of a start. A node sets its own pace once it is ready (server/process.py).
gc.set_threshold(200_000)

# structlog imports rich, if there is one, for coloured tracebacks, which the log does not use:
# 50 ms of each start.
if _SERVES:
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

from federation.cli.main import main  # noqa: E402 - see above

__all__ = ["artifact_server", "main"]


def artifact_server() -> None:
    """Run `bst-artifact-server`."""
    from federation.cli.bst_artifact_server import bst_artifact_server  # noqa: PLC0415 - it is much

    bst_artifact_server()
