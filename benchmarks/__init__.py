"""Measures this node beside buildbox-casd and BuildGrid: `python -m benchmarks --help`."""

import os

# Connections that end with their server are no news here. Read when grpc is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
