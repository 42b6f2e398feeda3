"""The command line: `federation`, and `bst-artifact-server` for those who know that one."""

from federation.cli.artifact_server import artifact_server
from federation.cli.main import main

__all__ = ["artifact_server", "main"]
