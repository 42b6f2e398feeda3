"""The configuration of build clients for a node: text to copy into their files."""

from __future__ import annotations

import socket
from typing import Literal, NamedTuple

from federation.cli.http_hints import http_lines
from federation.cli.pointer import Pointer
from federation.config.model import Config, ListenerConfig
from federation.config.types import Address, parse_address


class HintTarget(NamedTuple):
    """The listener that the hints are about, with its actual port."""

    listener: ListenerConfig
    address: Address


def choose(
    config: Config, addresses: list[str], protocol: Literal["grpc", "http"] = "grpc"
) -> HintTarget | None:
    """Return the first listener that accepts pushes, else the first; None: there is none."""
    targets = [
        HintTarget(listener, parse_address(address))
        for listener, address in zip(config.listeners, addresses, strict=True)
        if listener.protocol == protocol and not _is_for_nodes(listener)
    ]
    first = targets[0] if targets else None
    return next((t for t in targets if t.listener.push), first)


def _is_for_nodes(listener: ListenerConfig) -> bool:
    """Whether it is the listener of the mesh, which lets no clients in."""
    return listener.tls is not None and listener.tls.invitations is not None


def hints(config: Config, addresses: list[str]) -> str:
    """Return what `serve` prints once it serves."""
    sections = [f"Node {config.node_name} serves {', '.join(addresses)} from {config.data_dir}"]
    if (target := choose(config, addresses)) is not None:
        sections += [
            f"BuildStream, in ~/.config/buildstream.conf:\n\n{buildstream(target)}",
            f"Bazel, in .bazelrc:\n\n{bazel(target)}",
        ]
    if (target := choose(config, addresses, "http")) is not None:
        sections.append(f"Clients of HTTP caches:\n\n{http_caches(target)}")
    return "\n\n".join(sections) + "\n"


def buildstream(target: HintTarget) -> str:
    """Return the part of buildstream.conf (BuildStream 2)."""
    return indented(buildstream_2(_pointer(target)))


def bazel(target: HintTarget) -> str:
    """Return the lines of .bazelrc."""
    return indented(bazel_lines(_pointer(target)))


def http_caches(target: HintTarget) -> str:
    """Return a line for each client of the HTTP cache."""
    return indented("\n".join(http_lines(target.listener, _pointer(target))))


def buildstream_2(pointer: Pointer, *, in_project: bool = False) -> str:
    """Return the configuration of BuildStream 2, for the user's file or the project's."""
    server = [f"- url: {pointer.url}"]
    if pointer.push:
        server.append("  push: true")
    auth = _auth(pointer)
    if pointer.access_token is not None:
        auth["access-token"] = pointer.access_token
    if auth:
        server += ["  auth:", *(f"    {key}: {value}" for key, value in auth.items())]
    # project.conf has no `servers` level.
    if in_project:
        return "\n".join(["artifacts:", *server, "source-caches:", *server])
    servers = ["  servers:", *(f"  {line}" for line in server)]
    return "\n".join(["artifacts:", *servers, "source-caches:", *servers])


def buildstream_1(pointer: Pointer) -> str:
    """Return the configuration of BuildStream 1, which is the same in both files."""
    keys = {"url": pointer.url, **({"push": "true"} if pointer.push else {}), **_auth(pointer)}
    return "\n".join(["artifacts:", *(f"  {key}: {value}" for key, value in keys.items())])


def bazel_lines(pointer: Pointer) -> str:
    """Return lines of .bazelrc."""
    lines = [f"build --remote_cache={_grpc_url(pointer.url)}"]
    for key, value in _auth(pointer).items():
        lines.append(f"build --{_BAZEL[key]}={value}")
    # Bazel has no option for a token, so it goes into a header.
    if pointer.access_token is not None:
        lines.append('build --remote_header="authorization=Bearer TOKEN"')
    if not pointer.push:
        lines.append("build --remote_upload_local_results=false")
    return "\n".join(lines)


_BAZEL = {
    "server-cert": "tls_certificate",
    "client-cert": "tls_client_certificate",
    "client-key": "tls_client_key",
}


def _auth(pointer: Pointer) -> dict[str, str]:
    keys = {
        "server-cert": pointer.server_cert,
        "client-cert": pointer.client_cert,
        "client-key": pointer.client_key,
    }
    return {key: value for key, value in keys.items() if value is not None}


def _grpc_url(url: str) -> str:
    # Bazel speaks gRPC to grpc:// and grpcs:// only; http:// would mean its HTTP cache.
    return "grpc" + url.removeprefix("http") if url.startswith("http") else url


def _pointer(target: HintTarget) -> Pointer:
    tls, auth = target.listener.tls, target.listener.auth
    asked = tls is not None and tls.asks_clients
    return Pointer(
        f"{'https' if tls else 'http'}://{_reachable(target.address)}",
        push=target.listener.push,
        server_cert=None if tls is None else str(tls.server_cert),
        client_cert="client.crt" if asked else None,
        client_key="client.key" if asked else None,
        access_token="token.txt" if auth and auth.takes_tokens else None,
    )


def _reachable(address: Address) -> Address:
    """Replace an address that means every address of the machine by the machine's name."""
    # Clients on other machines cannot connect to 0.0.0.0.
    return address._replace(host=socket.gethostname()) if address.is_wildcard else address


def indented(text: str) -> str:
    """Return text indented by four spaces."""
    return "\n".join(f"    {line}" for line in text.splitlines())
