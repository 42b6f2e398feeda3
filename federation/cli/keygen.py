"""federation keygen."""

from __future__ import annotations

from pathlib import Path

import click

from federation.access.allowlist import parse_client_list
from federation.access.keygen import DAYS_MAX, KeyType, Purpose, make_pair
from federation.access.new_files import put_files
from federation.cli.command import Command, json_option
from federation.cli.hints import (
    bazel_lines,
    buildstream_1,
    buildstream_2,
    indented,
)
from federation.cli.output import emit_json
from federation.cli.pointer import Pointer
from federation.core.clock import SystemClock

_EXAMPLES = """\b
Examples:
  federation keygen server cache.example.com 10.0.0.5
  federation keygen client alice --url https://cache.example.com:11002
"""


@click.command(cls=Command, epilog=_EXAMPLES)
@click.argument("purpose", type=click.Choice(["server", "client"]))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--key-type", type=click.Choice(["ec", "rsa"]), default="ec", show_default=True)
@click.option(
    "--days",
    type=click.IntRange(1, DAYS_MAX),
    default=3650,
    show_default=True,
    help="Days that the certificate is valid for.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write OUT.crt and OUT.key.  [default: server, client]",
)
@click.option("--url", help="URL of the server, for the printed client configuration.")
@click.option("--force", is_flag=True, help="Replace existing files.")
@json_option
def keygen(
    purpose: Purpose,
    names: tuple[str, ...],
    key_type: KeyType,
    days: int,
    out: Path | None,
    url: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Create a certificate and its key for a server or a client, and print where to use them.

    A server's NAMEs are the host names and IP addresses under which clients reach it; a client's
    NAME appears in logs. The certificate has them as subject alternative names; it is self-signed
    and cannot sign others. Only its owner can read the key, which has no password.
    """
    made = make_pair(purpose, names, key_type, SystemClock().wall_s(), days)
    out = Path(purpose) if out is None else out
    certificate, key = out.with_name(f"{out.name}.crt"), out.with_name(f"{out.name}.key")
    # Together, or a new key could stand beside an old certificate.
    put_files({key: (made.key, 0o600), certificate: (made.certificate, 0o644)}, force=force)
    (fingerprint,) = parse_client_list(made.certificate, str(certificate)).by_fingerprint
    if as_json:
        emit_json(
            {"certificate": str(certificate), "key": str(key), "fingerprint-sha256": fingerprint}
        )
        return
    click.echo(f"{certificate}, {key}: created; SHA-256 {fingerprint}\n")
    if purpose == "server":
        click.echo(_for_server(names, certificate, key, url))
    else:
        click.echo(_for_client(certificate, key, url))


def _for_server(names: tuple[str, ...], certificate: Path, key: Path, url: str | None) -> str:
    # An IPv6 address needs brackets in a URL.
    host = f"[{names[0]}]" if ":" in names[0] else names[0]
    # 11001 to pull and 11002 to push, as BuildStream's documentation has them.
    pull = Pointer(url or f"https://{host}:11001", server_cert=str(certificate))
    tls = f"tls: {{server-cert: {certificate}, server-key: {key}}}"
    return _sections(
        {
            "The node's configuration": f"listeners:\n- address: 0.0.0.0:11001\n  {tls}",
            **_for_tools(pull),
        }
    )


def _for_client(certificate: Path, key: Path, url: str | None) -> str:
    push = Pointer(
        url or "https://cache.example.com:11002",
        push=True,
        server_cert="server.crt",
        client_cert=str(certificate),
        client_key=str(key),
    )
    allow = f"federation authorize {certificate.name} --list authorized.crt"
    return _sections(
        {
            "On the server, with the certificate (the key stays here)": allow,
            **_for_tools(push),
        }
    )


def _for_tools(pointer: Pointer) -> dict[str, str]:
    return {
        "BuildStream 2, in ~/.config/buildstream.conf": buildstream_2(pointer),
        "BuildStream 2, in project.conf": buildstream_2(pointer, in_project=True),
        "BuildStream 1, in either": buildstream_1(pointer),
        "Bazel, in .bazelrc": bazel_lines(pointer),
    }


def _sections(parts: dict[str, str]) -> str:
    return "\n\n".join(f"{title}:\n\n{indented(text)}" for title, text in parts.items()) + "\n"
