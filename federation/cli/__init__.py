"""The command line: `federation`, and `bst-artifact-server` for those who know that one."""

import os
import sys

# gRPC reads this when it is imported. Its own lines are no JSON and have no bound; only whoever
# serves has use for them, and native_log.py in their way.
if not os.environ.get("GRPC_VERBOSITY"):
    os.environ["GRPC_VERBOSITY"] = (
        "INFO" if sys.argv[1:2] == ["serve"] or "bst-artifact-server" in sys.argv[0] else "NONE"
    )

from federation.cli.artifact_server import artifact_server
from federation.cli.main import main

__all__ = ["artifact_server", "main"]
