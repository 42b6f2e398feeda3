"""The unit files of docs/examples: what bounds one service bounds all of them."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "docs/examples/systemd").glob("*.service"))


def section(unit: Path, name: str) -> dict[str, str]:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says
    parsed.read(unit)
    return dict(parsed[name])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_each_has_bounds_a_watchdog_and_the_same_hardening(unit: Path) -> None:
    ours = section(next(each for each in UNITS if each.stem == "federation"), "Service")
    keys = section(unit, "Service")
    assert keys["Type"] == "notify"
    assert {"MemoryMax", "TasksMax", "WatchdogSec", "UMask"} <= keys.keys()
    hardening = {key for key in ours if key.startswith(("Protect", "Restrict", "Private"))}
    hardening |= {"NoNewPrivileges", "CapabilityBoundingSet", "SystemCallFilter"}
    assert hardening <= keys.keys()
    for key in hardening - {"ProtectHome"}:  # two of them serve a user's home
        assert keys[key] == ours[key]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_none_starts_before_its_data_directory_is_mounted(unit: Path) -> None:
    data_dir = Path(section(unit, "Unit")["RequiresMountsFor"])
    keys = section(unit, "Service")
    named = keys.get("ReadWritePaths") or f"/var/lib/{keys['StateDirectory']}"
    assert Path(named) == data_dir
