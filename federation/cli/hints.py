"""How to point build clients at a node: text that can be copied into their files."""

from __future__ import annotations

import socket
from typing import NamedTuple

from federation.config import Config, Listener
from federation.config_values import Address, parse_address


class Target(NamedTuple):
    """The listener that clients should be told about, with the port it really has."""

    listener: Listener
    address: Address


def choose(config: Config, addresses: list[str]) -> Target:
    """Return the first listener that takes pushes, else the first."""
    targets = [
        Target(listener, parse_address(address))
        for listener, address in zip(config.listeners, addresses, strict=True)
    ]
    return next((t for t in targets if t.listener.push), targets[0])


def hints(config: Config, addresses: list[str]) -> str:
    """Return what `serve` prints once it answers."""
    target = choose(config, addresses)
    sections = [
        f"Node {config.node_name} serves {', '.join(addresses)} from {config.data_dir}",
        f"BuildStream, in ~/.config/buildstream.conf:\n\n{buildstream(target)}",
        f"Bazel, in .bazelrc:\n\n{bazel(target)}",
    ]
    return "\n\n".join(sections) + "\n"


def buildstream(target: Target) -> str:
    """Return the part of buildstream.conf (BuildStream 2)."""
    scheme = "https" if target.listener.tls else "http"
    server = [f"  - url: {scheme}://{_reachable(target.address)}"]
    if target.listener.push:
        server.append("    push: true")
    if target.listener.tls:
        server += ["    auth:", f"      server-cert: {target.listener.tls.server_cert}"]
        if target.listener.tls.client_certs:
            server += ["      client-cert: client.crt", "      client-key: client.key"]
    servers = "\n".join(["  servers:", *server])
    return _indented(f"artifacts:\n{servers}\nsource-caches:\n{servers}")


def bazel(target: Target) -> str:
    """Return the lines of .bazelrc."""
    scheme = "grpcs" if target.listener.tls else "grpc"
    lines = [f"build --remote_cache={scheme}://{_reachable(target.address)}"]
    if target.listener.tls:
        lines.append(f"build --tls_certificate={target.listener.tls.server_cert}")
        if target.listener.tls.client_certs:
            lines.append("build --tls_client_certificate=client.crt")
            lines.append("build --tls_client_key=client.key")
    if not target.listener.push:
        lines.append("build --remote_upload_local_results=false")
    return _indented("\n".join(lines))


def _reachable(address: Address) -> Address:
    """Put this machine's name where the address means "every address"."""
    return address._replace(host=socket.gethostname()) if address.is_wildcard else address


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
