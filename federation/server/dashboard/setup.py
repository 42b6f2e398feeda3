"""From a configuration to the dashboard."""

from __future__ import annotations

from functools import partial

from federation.config.model import Config
from federation.core.clock import Clock
from federation.server.dashboard.dashboard import Dashboard
from federation.server.dashboard.stored import StoredFacts
from federation.server.http.router import PageHandler
from federation.server.status.explained import explain_here
from federation.storage.factory import operations_on


def make_dashboard(config: Config, clock: Clock) -> PageHandler:
    """Return the page of a node with this configuration."""
    operations = operations_on(config.data_dir, config.storage)
    stored = StoredFacts(operations, config.data_dir, clock)
    explain = partial(explain_here, operations, limits=config.limits)
    return Dashboard(stored, explain, clock)
