"""What a test asks of each client of an HTTP cache: to build something, and say what came back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Outputs = Mapping[str, tuple[str, object]]  # as tests.clients.tools.tree returns them


@dataclass(frozen=True)
class CacheAddress:
    """Where a cache listens, and the token that a client shows there."""

    address: str  # host:port
    token: str | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def url_with_token(self) -> str:
        """The URL with the token as the password of Basic authentication."""
        return f"http://ci:{self.token}@{self.address}" if self.token else self.url


@dataclass(frozen=True)
class ClientBuild:
    """How one build went.

    hits and executed count actions, and are read from what the client itself reports.
    """

    hits: int
    executed: int
    outputs: Outputs
    code: int
    output: str

    def __contains__(self, text: str) -> bool:
        return text in self.output


class CacheClient(Protocol):
    """A client with a project of its own."""

    actions: int  # how many actions the project has; each can be a hit

    def setting(self, at: CacheAddress) -> str:
        """Return what a user of the client writes down; build() uses the same."""
        ...

    def build(self, at: CacheAddress, code: int = 0) -> ClientBuild:
        """Build the project as somebody with nothing cached or built on this machine.

        code: the exit code that the client must end with.
        """
        ...


def variables(setting: str) -> dict[str, str]:
    """Read "NAME=VALUE NAME=VALUE"."""
    return dict(pair.split("=", 1) for pair in setting.split())


class Homes:
    """An empty folder for each build, so that none finds what another has cached locally."""

    def __init__(self, root: Path) -> None:
        self._folders = (root / f"home-{number}" for number in _numbers())

    def new(self) -> Path:
        """Create a folder that nobody has used."""
        folder = next(self._folders)
        folder.mkdir(parents=True)
        return folder


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1
