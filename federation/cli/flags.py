"""Command line flags to a configuration, with complaints that name the flag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from federation.config.complaints import allowed
from federation.config.model import Config
from federation.config.types import Location
from federation.core.errors import ConfigError


class Flag(NamedTuple):
    """One flag as people type it, the key that it sets, and what was given."""

    name: str
    location: Location
    value: Any


def config_of(flags: list[Flag]) -> Config:
    """Return the configuration in which these flags set one listener and other keys.

    Raises ConfigError with every problem.
    """
    # As a file would have it: the same model checks both, and only the names in errors differ.
    raw: dict[str, Any] = {"listeners": [{}]}
    for flag in flags:
        *above, key = flag.location
        target: Any = raw
        for part in above:
            target = target.setdefault(part, {}) if isinstance(part, str) else target[part]
        target[key] = flag.value
    names = {flag.location: flag.name for flag in flags}
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_complaint(d, names) for d in error.errors())) from None


def _complaint(detail: ErrorDetails, names: Mapping[Location, str]) -> str:
    location = detail["loc"]
    # The missing key belongs to a flag that was not given, so the error would name none.
    if location[-2:-1] == ("tls",) and detail["type"] == "missing":
        if (*location[:-1], "client-certs") in names and not _pair_begun(location, names):
            return "--client-certs: needs TLS, so the server's certificate and key too"
        return "a certificate and a key belong together: one of the two was not given"
    section = [name for place, name in names.items() if place[: len(location)] == location]
    name = names.get(location) or ", ".join(section) or ".".join(map(str, location))
    return f"{name}: {allowed(detail)}"


def _pair_begun(location: Location, names: Mapping[Location, str]) -> bool:
    return any((*location[:-1], key) in names for key in ("server-cert", "server-key"))
