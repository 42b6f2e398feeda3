"""The configuration of clients of the HTTP cache: text to copy into their files."""

from __future__ import annotations

from collections.abc import Iterator

from federation.cli.pointer import Pointer
from federation.config.model import ListenerConfig


def http_lines(listener: ListenerConfig, pointer: Pointer) -> Iterator[str]:
    """Yield what each client needs, with the file or the variables that it goes into."""
    auth = listener.auth
    if auth is None or not auth.takes_tokens:
        yield from _lines(pointer, pointer.url, "")
        yield f"buildbox-casd: --cas-protocol=http --cas-remote={pointer.url}"
        return
    scheme, _, rest = pointer.url.partition("://")
    yield "(TOKEN is the token, for any user name)"
    yield from _lines(pointer, f"{scheme}://ci:TOKEN@{rest}", "TOKEN")
    if auth.anonymous != "none":  # it shows no token to HTTP servers
        yield f"buildbox-casd: --cas-protocol=http --cas-remote={pointer.url}"


def _lines(pointer: Pointer, url_with_token: str, token: str) -> Iterator[str]:
    url = pointer.url
    reads = "" if pointer.push else " --remote_upload_local_results=false"
    yield f"Bazel, in .bazelrc: build --remote_cache={url_with_token}{reads}"
    if url.startswith("http://"):  # ccache knows no TLS
        yield f"ccache, in ccache.conf: remote_storage = {url_with_token}/kv/ccache"
    shown = f" SCCACHE_WEBDAV_TOKEN={token}" if token else ""
    yield f"sccache: SCCACHE_WEBDAV_ENDPOINT={url}/kv/sccache{shown}"
    push = "; push = true" if pointer.push else ""
    yield (
        "Gradle, in settings.gradle: "
        f"buildCache {{ remote(HttpBuildCache) {{ url = '{url_with_token}/gradle/'{push} }} }}"
    )
    # It asks no remote cache unless it has a team and a token.
    yield f"Turborepo: TURBO_API={url} TURBO_TEAM=team TURBO_TOKEN={token or 'any'}"
    shown = f" NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN={token}" if token else ""
    yield f"Nx: NX_SELF_HOSTED_REMOTE_CACHE_SERVER={url}{shown}"
    shown = ", auth: {token: 'CACHE_TOKEN'}" if token else ""
    where = f" (CACHE_TOKEN={token} in the environment)" if token else ""
    yield f"moon, in .moon/workspace.yml{where}: remote: {{api: 'http', host: '{url}'{shown}}}"
