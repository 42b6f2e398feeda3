"""What every attack is judged by: an honest client's worst call, and the node's memory.

    with Attacked(tmp_path, limits={...}) as node, node.connection() as attacker:
        with node.watched() as seen:
            ...                     # begin the attack, and keep it up
            seen.judge()            # honest calls beside it
        node.check_limit_hit("streams-per-caller")

The honest client has credentials of its own where the node asks for some, and comes from another
address than attackers do by default. A machine that is busy with other things must not make a test
fail: the worst call is measured up to ROUNDS times, and compared with what it was without an
attack, too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from federation.access.rights import Role
from federation.access.tokens import RANDOM_BYTES, make_token
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from tests.access.served import with_headers
from tests.attacks.raw import RawConnection
from tests.support.certificates import self_signed
from tests.support.polling import wait_until
from tests.support.process import Node, merged
from tests.support.process_client import Client

MIB = 2**20
ATTACKER = "127.0.0.2"
ROUNDS = 3
WORST_S = 1.0
BUSY_CALM_S = 0.1  # the worst of small calls without an attack; on a quiet machine about 30 ms
HITS = "federation_limits_hit_total"

_CALLS = 40  # of the honest client in one round
_clock = SystemClock()


class Honest:
    """A client that does small calls of each kind, one after the other, and times them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._data = b"of somebody honest" * 50
        self._digest = digest_of(self._data)
        self._count = 0
        client.write(self._data)

    def worst_s(self, calls: int = _CALLS) -> float:
        """Do so many calls, all of which have to end well; returns how long the longest took."""
        kinds: Sequence[Callable[[], object]] = (
            self._client.capabilities,
            lambda: self._client.find_missing([self._digest]),
            self._read,
            self._write,
        )
        worst_s = 0.0
        for at in range(calls):
            began_s = _clock.monotonic_s()
            kinds[at % len(kinds)]()
            worst_s = max(worst_s, _clock.monotonic_s() - began_s)
        return worst_s

    def _read(self) -> None:
        assert self._client.read(self._digest) == self._data

    def _write(self) -> None:
        self._count += 1
        self._client.write(b"honest %d" % self._count)


class Seen:
    """What is seen of a node while it is attacked."""

    def __init__(self, node: Node, honest: Honest, memory_mib: int) -> None:
        self._node = node
        self._honest = honest
        self._memory_mib = memory_mib
        self._calm_s = honest.worst_s()
        self._before_bytes = node.rss_bytes()
        self.peak_bytes = self._before_bytes
        self.worst_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(0.02):
            try:
                self.peak_bytes = max(self.peak_bytes, self._node.rss_bytes())
            except (OSError, IndexError):
                return

    @property
    def growth_mib(self) -> float:
        """How far the node's memory was above what it had before, at its highest."""
        return (self.peak_bytes - self._before_bytes) / MIB

    def judge(self) -> None:
        """Have the honest client call, and fail if that takes too long or memory grew too much."""
        allowed_s = max(WORST_S, 4 * self._calm_s)
        for _ in range(ROUNDS):
            self.worst_s = self._honest.worst_s()
            if self.worst_s <= allowed_s:
                break
        else:
            raise AssertionError(
                f"an honest call took {self.worst_s:.2f} s ({self._calm_s:.2f} s without the "
                f"attack)\n{self._node.log_tail}"
            )
        self.judge_memory()

    def judge_memory(self) -> None:
        """Fail if memory grew too much until now.

        A node that other programs keep from running cannot stop gRPC's windows from filling, so it
        is allowed half as much again; what is unbounded takes many times the bound.
        """
        is_slow = self._calm_s > BUSY_CALM_S or self.worst_s > WORST_S / 2
        is_busy = is_slow or os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
        allowed_mib = self._memory_mib * (1.5 if is_busy else 1)
        assert self.growth_mib <= allowed_mib, (
            f"the node's memory grew by {self.growth_mib:.0f} MiB; {allowed_mib:.0f} are allowed"
        )

    def end(self) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join()


class Attacked:
    """A node that is about to be attacked: with TLS and tokens, or open to everybody.

    Tokens: `honest` and `attacker` may push, `reader` may pull; they are texts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        open_to_all: bool = False,
        limits: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe it: limits and other settings as in the configuration file."""
        self.is_open = open_to_all
        made = [
            make_token(role, bytes([at]) * RANDOM_BYTES, _clock.wall_s(), name=name)
            for at, (name, role) in enumerate(
                (("honest", Role.PUSH), ("attacker", Role.PUSH), ("reader", Role.PULL))
            )
        ]
        self.honest_token, self.attacker_token, self.reader_token = (each.text for each in made)
        listener: dict[str, Any] = {"address": "127.0.0.1:0", "push": True}
        if not open_to_all:
            server = self_signed(folder)
            tokens = folder / "tokens"
            tokens.write_text("".join(f"{each.line}\n" for each in made))
            tokens.chmod(0o600)
            listener["tls"] = {
                "server-cert": str(server.certificate),
                "server-key": str(server.key),
            }
            listener["auth"] = {"tokens": str(tokens)}
            self._certificate = server.certificate
        base = {
            "listeners": [listener],
            "limits": dict(limits or {}),
            "log": {"format": "json", "level": "info"},
        }
        self.node = Node(folder / "data", merged(base, settings or {}))

    def __enter__(self) -> Attacked:
        self.node.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.node.close()

    @contextmanager
    def client(self, token: str | None = None) -> Iterator[Client]:
        """Connect as an ordinary client; without a token as the honest one."""
        import grpc

        if self.is_open:
            with Client(self.node.address) as plain:
                yield plain
            return
        credentials = grpc.ssl_channel_credentials(self._certificate.read_bytes())
        port = self.node.address.rpartition(":")[2]
        shown = [("authorization", f"Bearer {token or self.honest_token}")]
        with Client(f"localhost:{port}", credentials=credentials) as client:
            yield with_headers(client, shown)

    def connection(
        self, *, source: str = ATTACKER, window_bytes: int | None = None
    ) -> RawConnection:
        """Connect as an attacker."""
        return RawConnection(
            self.node.address, tls=not self.is_open, source=source, window_bytes=window_bytes
        )

    @staticmethod
    def bearer(token: str) -> list[tuple[str, str]]:
        """Return the headers of a call that shows this token."""
        return [("authorization", f"Bearer {token}")]

    @contextmanager
    def watched(self, memory_mib: int = 64) -> Iterator[Seen]:
        """Look at the node from here on; memory_mib: by how much it may grow."""
        with self.client() as client:
            seen = Seen(self.node, Honest(client), memory_mib)
            try:
                yield seen
                seen.judge_memory()
                assert self.node.metrics().value("federation_evicted_total") == 0
            finally:
                seen.end()

    def check_limit_hit(self, limit: str) -> None:
        """Fail unless the metrics and the log say that this limit (limits.LIMIT) was reached."""
        wait_until(lambda: self.node.metrics().value(HITS, limit=limit) >= 1, f"{HITS} of {limit}")
        wait_until(lambda: self.told_of(limit), f"a line about {limit} in the log")

    def told_of(self, limit: str) -> bool:
        """Whether the log has a line about this limit."""
        name = limit if "." in limit else f"limits.{limit}"
        wanted = f'"limit": "{name}"'
        return any(
            '"event": "limit_hit"' in line and wanted in line for line in self.node.log.splitlines()
        )
