"""A single call to a server, and the certificate of a server of which only the hash is known."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from base64 import b64encode
from urllib.parse import unquote, urlsplit

import grpc

from federation.config.types import Address
from federation.core.http_proxy import proxy_for
from federation.core.pem_pair import load_pair_into
from federation.remote.connection import Connection
from federation.remote.credentials import Certificates
from federation.remote.failures import FailureKind, NotFound, failure
from federation.remote.methods import Method
from federation.remote.settings import RemoteSettings
from federation.remote.statuses import from_rpc

_CALL_S = 30.0
_HANDSHAKE_S = 15.0
_PROXY_PORT = 80
_ANSWER_MAX_BYTES = 8 * 1024


async def call_once(
    settings: RemoteSettings, certificates: Certificates, method: Method, request: bytes
) -> bytes:
    """Make one call on a connection of its own. Raises RemoteFailed."""
    connection = Connection(settings, settings.target(), certificates)
    try:
        response: bytes = await connection.unary(method)(request, timeout=_CALL_S)
    except grpc.aio.AioRpcError as error:
        found = from_rpc(settings.name, error)
        # None of these methods has a miss to tell.
        if isinstance(found, NotFound):
            raise failure(settings.name, FailureKind.REFUSED, str(found)) from None
        raise found from None
    finally:
        await connection.close()
    return response


async def fetch_certificate(name: str, address: Address, sha256: bytes, own: Certificates) -> bytes:
    """Return a server's certificate (PEM) if it has this SHA-256; own: what is shown to it.

    Whatever else answers at the address learns the certificate that is shown, and nothing more.
    Raises RemoteFailed.
    """
    context = _context(own)
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            writer = await _connect(address, context)
    except (OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
        raise failure(name, FailureKind.UNAVAILABLE, f"{address}: {reason}") from None
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True) or b""
    writer.transport.abort()
    # The fingerprint takes the place of a chain and a name: whoever invited has named exactly this.
    if hashlib.sha256(der).digest() != sha256:
        detail = (
            f"what answers at {address} has another certificate than the one that was named: "
            "another program, or somebody in between"
        )
        raise failure(name, FailureKind.CERTIFICATE, detail)
    return ssl.DER_cert_to_PEM_cert(der).encode("ascii")


async def _connect(address: Address, context: ssl.SSLContext) -> asyncio.StreamWriter:
    """Return a connection after its handshake, through a proxy where one is set.

    Raises OSError, SSLError, IncompleteReadError.
    """
    found = proxy_for(str(address), tls=True)
    if found is None:
        _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        return writer
    proxy = urlsplit(found)
    reader, writer = await asyncio.open_connection(
        proxy.hostname,
        proxy.port or _PROXY_PORT,
        limit=_ANSWER_MAX_BYTES,  # a proxy may answer with a page instead of a tunnel
    )
    try:
        head = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
        if proxy.username is not None:
            pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            head.append(f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}")
        writer.write("\r\n".join([*head, "", ""]).encode("latin-1"))
        answer = (await _until_empty_line(reader)).split(b"\r\n", 1)[0]
        # Its body is not read: a refusal may be a page of any length.
        if answer.split(b" ")[1:2] != [b"200"]:
            raise OSError(0, f"the proxy answers {answer[:80].decode('latin-1')!r}")
        await writer.start_tls(context, server_hostname=address.host)
    except BaseException:
        writer.transport.abort()
        raise
    return writer


async def _until_empty_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise OSError(0, "the proxy's answer is no answer to CONNECT") from None


def _context(own: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # First, as ssl refuses CERT_NONE while it checks names.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the hash is compared instead
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # what a client shows travels encrypted
    context.set_alpn_protocols(["h2"])
    if own.chain is not None and own.key is not None:
        load_pair_into(context, own.chain, own.key)
    return context
