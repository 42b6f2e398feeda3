"""The clients of an HTTP cache that the tests drive, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.clients.http.builds import CacheClient
from tests.clients.http.compilers import Ccache, Sccache
from tests.clients.http.gradle import Gradle
from tests.clients.http.javascript import Nx, Turbo
from tests.clients.http.remote_execution import BazelOverHttp, MoonOverHttp

CLIENTS: Mapping[str, Callable[[Path], CacheClient]] = {
    "bazel": BazelOverHttp,
    "ccache": Ccache,
    "gradle": Gradle,
    "moon": MoonOverHttp,
    "nx": Nx,
    "sccache": Sccache,
    "turbo": Turbo,
}
# Other ways to be configured, which send other paths.
VARIANTS: Mapping[str, Callable[[Path], CacheClient]] = {
    "bazel-instance": partial(BazelOverHttp, instance="team/a"),
    "ccache-flat": partial(Ccache, layout="flat"),
    "ccache-as-bazel": partial(Ccache, layout="bazel", path=""),
    "sccache-prefix": partial(Sccache, as_prefix=True),
    "moon-instance": partial(MoonOverHttp, instance="moon-outputs"),  # its default
}
