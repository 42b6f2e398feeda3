"""Limits that a reload changes while services hold them."""

from __future__ import annotations

from federation.config.model import LimitsConfig


class LiveLimits(LimitsConfig, frozen=False):
    """The same as Limits to whoever reads it, each time it needs a value."""

    def take(self, limits: LimitsConfig) -> None:
        """Have these values from now on."""
        for name in LimitsConfig.model_fields:
            setattr(self, name, getattr(limits, name))
