"""Bazel and moon with a remote cache over HTTP instead of gRPC."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.clients import bazel
from tests.clients.http.builds import CacheAddress, ClientBuild, Homes
from tests.clients.moon import Workspace
from tests.clients.tools import tree


class BazelOverHttp:
    """A workspace of Bazel; instance: a path before /ac and /cas."""

    actions = bazel.ACTIONS

    def __init__(self, folder: Path, instance: str = "") -> None:
        folder.mkdir()
        self.workspace = bazel.write_workspace(folder / "workspace")
        self._homes = Homes(folder / "homes")
        self._path = f"/{instance}" if instance else ""

    def setting(self, at: CacheAddress) -> str:
        return f"build --remote_cache={at.url_with_token}{self._path}"

    def build(self, at: CacheAddress, code: int = 0) -> ClientBuild:
        return self.build_with(self.setting(at).removeprefix("build --remote_cache="), code)

    def build_with(self, remote: str, code: int = 0) -> ClientBuild:
        """Build with the cache at this URL, of any protocol that Bazel knows."""
        builder = bazel.Builder(self._homes.new(), self.workspace, remote)
        result = builder.build(code)
        return ClientBuild(
            hits=bazel.hits(result),
            executed=bazel.executed(result),
            outputs=tree(builder.outputs),
            code=result.code,
            output=result.output,
        )


class MoonOverHttp:
    """A workspace of moon, whose one task is the same wherever the cache is.

    instance: what stands before /ac and /cas. Without, moon sends several slashes there.
    """

    actions = 1

    def __init__(self, folder: Path, instance: str = "") -> None:
        folder.mkdir()
        self._workspace = Workspace(folder / "workspace")
        # The file is an input of each task, so the actual host comes by the environment.
        written = yaml.safe_load(self.setting(CacheAddress("localhost:1", "any")))
        self._workspace.configure({**written["remote"], "cache": {"instanceName": instance}})

    def setting(self, at: CacheAddress) -> str:
        auth = ", auth: {token: 'CACHE_TOKEN'}" if at.token else ""
        return f"remote: {{api: 'http', host: '{at.url}'{auth}}}"

    def build(self, at: CacheAddress, code: int = 0) -> ClientBuild:
        self._workspace.forget()
        result = self._workspace.make(MOON_REMOTE_HOST=at.url, CACHE_TOKEN=at.token or "any")
        assert result.code == code
        hits = result.output.count("cached from remote")
        return ClientBuild(
            hits=hits,
            executed=result.output.count("said by make") - hits,  # a hit prints it, too
            outputs=tree(self._workspace.out),
            code=result.code,
            output=result.output,
        )
