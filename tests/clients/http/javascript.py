"""Turborepo and Nx: workspaces of two packages whose builds come from the remote cache."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from tests.clients.http.builds import CacheAddress, ClientBuild, Homes, Outputs, variables
from tests.clients.tools import ROOT, run, tool, tree

_PACKAGES = ("app", "lib")
# What it makes differs each time, so equal outputs are cached ones. In the folder PAUSE it says
# that it has begun, and waits to be told to go on.
_SCRIPT = """\
cd "$(dirname "$0")"
if [ -n "$PAUSE" ]; then
    touch "$PAUSE/begun-$(basename "$PWD")"
    until [ -e "$PAUSE/go" ]; do sleep 0.05; done
fi
mkdir -p dist/sub
head -c 3000000 /dev/urandom > dist/big
echo made > dist/sub/small
echo said by make
"""
_QUIET = {
    "CI": "1",
    "NO_COLOR": "1",
    "NPM_CONFIG_UPDATE_NOTIFIER": "false",
    "NX_DAEMON": "false",
    "NX_NO_CLOUD": "true",
    "TURBO_TELEMETRY_DISABLED": "1",
}


class _Packages:
    """A workspace with a script in each package."""

    actions = len(_PACKAGES)

    def __init__(self, folder: Path) -> None:
        self.homes = Homes(folder / "homes")
        self.root = folder / "workspace"
        for name in _PACKAGES:
            (self.root / name).mkdir(parents=True)
            (self.root / name / "make.sh").write_text(_SCRIPT)

    def write(self, path: str, content: dict[str, Any]) -> None:
        (self.root / path).write_text(json.dumps(content, indent=2))

    def forget(self, *names: str) -> None:
        """Delete what was built, and these folders of each package and of the workspace."""
        for folder in (self.root, *(self.root / name for name in _PACKAGES)):
            for made in ("dist", *names):
                shutil.rmtree(folder / made, ignore_errors=True)

    def outputs(self) -> Outputs:
        return {
            f"{name}/{path}": found
            for name in _PACKAGES
            for path, found in tree(self.root / name / "dist").items()
        }


class Turbo:
    """Turborepo; with a signature key it trusts only artifacts that have its signature."""

    actions = _Packages.actions

    def __init__(self, folder: Path, *, signed: bool = True) -> None:
        self._packages = _Packages(folder)
        workspace = {
            "name": "root",
            "private": True,
            "packageManager": "npm@10.0.0",
            "workspaces": list(_PACKAGES),
        }
        self._packages.write("package.json", workspace)
        links: dict[str, Any] = {"": {"name": "root", "workspaces": list(_PACKAGES)}}
        for name in _PACKAGES:
            scripts = {"build": "sh make.sh"}
            package = {"name": name, "version": "1.0.0", "scripts": scripts}
            self._packages.write(f"{name}/package.json", package)
            links[f"node_modules/{name}"] = {"resolved": name, "link": True}
            links[name] = {"version": "1.0.0"}
        lock = {"name": "root", "lockfileVersion": 3, "requires": True, "packages": links}
        self._packages.write("package-lock.json", lock)
        tasks = {"build": {"inputs": ["make.sh"], "outputs": ["dist/**"]}}
        self._packages.write("turbo.json", {"tasks": tasks, "remoteCache": {"signature": signed}})

    def setting(self, at: CacheAddress) -> str:
        # Without a token it does not ask a remote cache.
        return f"TURBO_API={at.url} TURBO_TEAM=team TURBO_TOKEN={at.token or 'any'}"

    def build(self, at: CacheAddress, code: int = 0) -> ClientBuild:
        self._packages.forget(".turbo", "node_modules")
        env = {
            **_QUIET,
            **variables(self.setting(at)),
            "HOME": str(self._packages.homes.new()),
            "TURBO_REMOTE_CACHE_SIGNATURE_KEY": "0123456789abcdef" * 2,
        }
        options = ("--cache=local:,remote:rw", "--no-update-notifier")
        result = run(
            tool("turbo"), "run", "build", *options, cwd=self._packages.root, env=env, code=code
        )
        return ClientBuild(
            hits=result.output.count("cache hit, replaying logs"),
            executed=result.output.count("cache miss, executing"),
            outputs=self._packages.outputs(),
            code=result.code,
            output=result.output,
        )


class Nx:
    """Nx with a cache that it calls self-hosted."""

    actions = _Packages.actions

    def __init__(self, folder: Path) -> None:
        self._packages = _Packages(folder)
        build = {"cache": True, "inputs": ["{projectRoot}/make.sh"]}
        settings = {
            "analytics": False,
            "neverConnectToCloud": True,
            "targetDefaults": {"build": {**build, "outputs": ["{projectRoot}/dist"]}},
        }
        self._packages.write("nx.json", settings)
        self._packages.write("package.json", {"name": "root", "private": True})
        for name in _PACKAGES:
            targets = {"build": {"command": f"sh {name}/make.sh"}}
            self._packages.write(f"{name}/project.json", {"name": name, "targets": targets})
        (self._packages.root / "node_modules").symlink_to(ROOT / "nx" / "node_modules")

    def setting(self, at: CacheAddress) -> str:
        where = f"NX_SELF_HOSTED_REMOTE_CACHE_SERVER={at.url}"
        shown = f" NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN={at.token}"
        return where + (shown if at.token else "")

    def build(self, at: CacheAddress, code: int = 0, pause: Path | None = None) -> ClientBuild:
        """See CacheClient. pause: a folder where each action waits until it contains `go`."""
        self._packages.forget(".nx")
        home = self._packages.homes.new()
        env = {
            **_QUIET,
            **variables(self.setting(at)),
            "HOME": str(home),
            "NX_CACHE_DIRECTORY": str(home / "cache"),
            "NX_WORKSPACE_DATA_DIRECTORY": str(home / "data"),
            "PAUSE": str(pause or ""),
        }
        options = ("run-many", "-t", "build", "--outputStyle=static")
        result = run(tool("nx"), *options, cwd=self._packages.root, env=env, code=code)
        counted = re.search(r"Cache:\s+(\d+)/(\d+) hit", result.output)
        return ClientBuild(
            hits=result.output.count("[remote cache]"),
            executed=int(counted[2]) - int(counted[1]) if counted else 0,
            outputs=self._packages.outputs(),
            code=result.code,
            output=result.output,
        )
