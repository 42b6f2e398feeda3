"""A federated build cache node: REAPI CAS, action cache and Remote Asset over gRPC."""

import os

# gRPC's own resolver takes but one of several lines that /etc/hosts has for a name, and knows
# nothing of the system's other sources of names. gRPC reads this when it is imported.
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")

__version__ = "0.1.0"
