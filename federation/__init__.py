"""A federated build cache node: REAPI CAS, action cache and Remote Asset over gRPC."""

from importlib.metadata import version

__version__ = version("federation")
