"""The command line: `federation`, and `bst-artifact-server` for those who know that one."""

import os

# gRPC reads this when it is imported. Its own lines would be no JSON, without a bound, and one for
# every port scanner; what an operator must know is raised as an error and said by us.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from federation.cli.artifact_server import artifact_server
from federation.cli.main import main

__all__ = ["artifact_server", "main"]
