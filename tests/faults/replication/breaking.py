"""What a round breaks: one node or some links each, until it is mended.

Each fault is a context: entering breaks, leaving mends. `Breaker` draws them by a seeded random
source, never two for the same node at once.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.faults.replication.link import Mode
from tests.faults.replication.mesh import Mesh
from tests.faults.replication.volumes import Volume
from tests.support.polling import wait_until
from tests.support.process import Settings, merged

_DAY_S = 86400.0
_STEPS_S = (-400 * _DAY_S, -3600.0, -30.0, 30.0, 3600.0, 400 * _DAY_S)
_LEFT_BYTES = (0, 200_000, 5_000_000)
_START_MAX_S = 90.0
_LINKS_MAX = 6


class Broken(NamedTuple):
    """A fault that can be entered."""

    kind: str
    where: str
    context: AbstractContextManager[None]


class Breaker:
    """Draws faults for a mesh."""

    def __init__(
        self,
        mesh: Mesh,
        rng: random.Random,
        volumes: Mapping[str, Volume] | None = None,
        clocks: Mapping[str, Path] | None = None,
    ) -> None:
        """Take the mesh, and what of each node can be broken besides its process and its links.

        Args:
            mesh: started.
            rng: decides everything.
            volumes: where each node's data directory is.
            clocks: files with the error of each node's wall clock in seconds.
        """
        self._mesh = mesh
        self._rng = rng
        self._volumes = volumes or {}
        self._clocks = clocks or {}
        self._of_nodes: dict[str, Callable[[str], AbstractContextManager[None]]] = {
            "kill": self._kill,
            "freeze": self._freeze,
        }
        if self._clocks:
            self._of_nodes |= {"clock": self._step, "reload": self._reload}
        if self._volumes:
            self._of_nodes |= {"full": self._fill, "vanish": self._vanish, "hide": self._hide}

    @property
    def kinds(self) -> list[str]:
        """What can be drawn."""
        return ["cut", "silence", *self._of_nodes]

    def draw(self, count: int, kinds: Sequence[str] = ()) -> list[Broken]:
        """Return so many faults, of these kinds or any, of different nodes."""
        names = self._rng.sample(list(self._mesh.nodes), count)
        return [self._draw(self._rng.choice(kinds or self.kinds), name) for name in names]

    def _draw(self, kind: str, name: str) -> Broken:
        if kind == "cut":
            return Broken(kind, "links", self._break(Mode.CUT))
        if kind == "silence":
            mode = self._rng.choice([Mode.SILENT, Mode.DEAF])
            return Broken(kind, f"links {mode}", self._break(mode))
        return Broken(kind, name, self._of_nodes[kind](name))

    @contextmanager
    def _kill(self, name: str) -> Iterator[None]:
        self._mesh.nodes[name].kill()
        try:
            yield
        finally:
            self._mesh.start(name, within_s=_START_MAX_S)

    @contextmanager
    def _freeze(self, name: str) -> Iterator[None]:
        node = self._mesh.nodes[name]
        node.pause()
        try:
            yield
        finally:
            node.resume()

    @contextmanager
    def _break(self, mode: Mode) -> Iterator[None]:
        links = list(self._mesh.links.values())
        links = self._rng.sample(links, self._rng.randint(1, min(_LINKS_MAX, len(links))))
        for link in links:
            link.set(mode)
        try:
            yield
        finally:
            for link in links:
                link.set(Mode.OPEN)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        _write_whole(self._clocks[name], str(self._rng.choice(_STEPS_S)))
        try:
            yield
        finally:
            _write_whole(self._clocks[name], "0")

    @contextmanager
    def _fill(self, name: str) -> Iterator[None]:
        self._volumes[name].fill(self._rng.choice(_LEFT_BYTES))
        try:
            yield
        finally:
            self._volumes[name].empty()

    @contextmanager
    def _vanish(self, name: str) -> Iterator[None]:
        """The whole data directory is an empty folder, but to those who have files of it open."""
        volume = self._volumes[name]
        volume.detach()
        try:
            yield
        finally:
            volume.attach()

    @contextmanager
    def _hide(self, name: str) -> Iterator[None]:
        """The folder of blobs is empty, on the same device or another; the catalogue is there."""
        volume, node = self._volumes[name], self._mesh.nodes[name]
        volume.hide("blobs", other_device=self._rng.random() < 0.5)
        restarts = self._rng.random() < 0.3
        if restarts:  # it may refuse to start like this, or start and say that it is not ready
            node.kill()
            node.launch()
        try:
            yield
        finally:
            volume.show("blobs")
            if restarts:
                if node.running:
                    node.close()
                else:
                    node.wait_exit(10)
                self._mesh.start(name, within_s=_START_MAX_S)

    @contextmanager
    def _reload(self, name: str) -> Iterator[None]:
        node = self._mesh.nodes[name]
        over = self._changes(yaml.safe_load(node.config_path.read_text()))
        self._take(name, merged(node.settings, over))
        try:
            yield
        finally:
            self._take(name, node.settings)

    def _changes(self, settings: Settings) -> Settings:
        """Draw what another configuration file says: at times fewer peers, or an upstream."""
        peers: list[dict[str, Any]] = list(settings["peers"])
        others: list[Settings] = [
            {"storage": {"quota": self._rng.choice(["20G", "30G"])}},
            {"peers": self._rng.sample(peers, self._rng.randint(0, len(peers) - 1))},
            {"peers": [{**peer, "order": "newest"} for peer in peers]},
            {
                "upstreams": [
                    {"name": peer["name"], "url": peer["url"]}
                    for peer in self._rng.sample(peers, 2)
                ]
            },
        ]
        return self._rng.choice(others)

    def _take(self, name: str, settings: Settings) -> None:
        """Have a node run with other settings, without a restart."""
        node = self._mesh.nodes[name]
        before = _reloaded(node.data_dir)
        node.write_config(settings)
        node.signal(signal.SIGHUP)
        outcome = wait_until(
            lambda: (now := _reloaded(node.data_dir)) != before and now,
            f"{name} reloaded",
            timeout_s=60,
        )
        assert outcome["error"] is None, outcome
        assert not outcome["needs-restart"], outcome


def _reloaded(data_dir: Path) -> dict[str, Any] | None:
    """Return what came of the last reload of the process that serves a directory."""
    found = []
    for path in data_dir.glob("run/*.json"):
        try:
            found.append(json.loads(path.read_bytes()).get("reload"))
        except (OSError, ValueError):
            continue  # it is just written
    return max((each for each in found if each), key=_began, default=None)


def _began(outcome: Mapping[str, Any]) -> float:
    return float(outcome["began-monotonic-s"])


def _write_whole(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)
