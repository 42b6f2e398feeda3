"""The unit files of docs/examples: what bounds one service bounds all of them."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "docs/examples/systemd").glob("*.service"))


def service(unit: Path) -> dict[str, str]:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says
    parsed.read(unit)
    return dict(parsed["Service"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_each_has_bounds_a_watchdog_and_the_same_hardening(unit: Path) -> None:
    ours = service(next(each for each in UNITS if each.stem == "federation"))
    keys = service(unit)
    assert keys["Type"] == "notify"
    assert {"MemoryMax", "TasksMax", "WatchdogSec", "UMask"} <= keys.keys()
    hardening = {key for key in ours if key.startswith(("Protect", "Restrict", "Private"))}
    hardening |= {"NoNewPrivileges", "CapabilityBoundingSet", "SystemCallFilter"}
    assert hardening <= keys.keys()
    for key in hardening - {"ProtectHome"}:  # two of them serve a user's home
        assert keys[key] == ours[key]
