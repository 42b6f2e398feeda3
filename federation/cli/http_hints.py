"""The configuration of clients of the HTTP cache: text to copy into their files."""

from __future__ import annotations

from collections.abc import Iterator

from federation.cli.pointer import Pointer
from federation.config.model import ListenerConfig


def http_lines(listener: ListenerConfig, pointer: Pointer) -> Iterator[str]:
    """Yield what each client needs, with the file or the variables that it goes into."""
    url = pointer.url
    auth = listener.auth
    if auth is not None and auth.takes_tokens:
        scheme, _, rest = url.partition("://")
        url = f"{scheme}://ci:TOKEN@{rest}"
        yield "(TOKEN is the token, for any user name)"
    yield f"Bazel, in .bazelrc: build --remote_cache={url}"
    yield f"ccache, in ccache.conf: remote_storage = {url}/kv/ccache"
    yield (
        f"sccache: SCCACHE_WEBDAV_ENDPOINT={pointer.url} SCCACHE_WEBDAV_KEY_PREFIX=kv/sccache"
        + (" SCCACHE_WEBDAV_TOKEN=TOKEN" if url != pointer.url else "")
    )
    push = "; push = true" if pointer.push else ""
    yield (
        "Gradle, in settings.gradle: "
        f"buildCache {{ remote(HttpBuildCache) {{ url = '{url}/gradle/'{push} }} }}"
    )
    yield f"Turborepo: TURBO_API={pointer.url} TURBO_TOKEN=TOKEN TURBO_TEAM=team"
    token = " NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=TOKEN" if url != pointer.url else ""
    yield f"Nx: NX_SELF_HOSTED_REMOTE_CACHE_SERVER={pointer.url}{token}"
    yield f"moon, in .moon/workspace.yml: remote: {{api: 'http', host: '{pointer.url}'}}"
    yield f"buildbox-casd: --cas-protocol http --cas-remote {pointer.url}"
