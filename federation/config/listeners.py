"""The keys about listeners: where clients are served, to whom, and what callers may do there."""

from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from federation.config.auth import ListenerAuthConfig
from federation.config.section import Section
from federation.config.types import AddressText, Duration, FilePath, Flag, parse_address


class TlsConfig(Section):
    """The certificate of a listener, and which client certificates it accepts."""

    server_cert: FilePath = Field(description="PEM file: the server's certificate, then its chain")
    server_key: FilePath = Field(description="PEM file: the certificate's private key")
    client_certs: FilePath | None = Field(
        default=None,
        description="PEM file: the certificates of the clients that are allowed in; no others are; "
        "default: everybody",
    )
    peer_certs: FilePath | None = Field(
        default=None,
        description="PEM file: the certificates of the nodes that may be peers; default: none",
    )
    invitations: FilePath | None = Field(
        default=None,
        description="folder with the certificates of invitations, which may join the mesh and "
        "nothing else; the mesh's own listener has it; default: none",
    )
    client_ca: FilePath | None = Field(
        default=None,
        description="PEM file: authorities whose certificates clients are allowed in with; "
        "default: none",
    )

    @model_validator(mode="after")
    def _has_a_list_beside_invitations(self) -> Self:
        if self.invitations is not None and not self.asks_clients:
            raise ValueError("invitations: without peer-certs everybody would be allowed in")
        return self

    @property
    def asks_clients(self) -> bool:
        """Whether only clients with a certificate are allowed in."""
        return any((self.client_certs, self.peer_certs, self.client_ca))


class ListenerConfig(Section):
    """One address that clients are served on."""

    address: AddressText = Field(description="host:port; port 0 picks a free one")
    protocol: Literal["grpc", "http"] = Field(
        default="grpc",
        description="grpc: the Remote Execution and Remote Asset APIs; http: caches over HTTP, for "
        "Bazel, ccache, sccache, Gradle, Turborepo, Nx, moon and buildbox-casd",
    )
    push: Flag = Field(default=False, description="whether callers may write")
    type: Literal["all", "index"] = Field(
        default="all",
        description="index: action results, assets and references only, for clients whose blobs "
        "are elsewhere: entries are served whether or not the blobs they name are here",
    )
    acknowledge: Literal["local", "one-peer", "all-peers"] = Field(
        default="local",
        description="what must have stored a write before its client gets the OK",
    )
    acknowledge_within: Duration = Field(
        default=5.0,
        gt=0,
        description="how long to wait for peers; then the client gets the OK anyway",
    )
    tls: TlsConfig | None = Field(default=None, description="without it the listener is plain text")
    auth: ListenerAuthConfig | None = Field(
        default=None,
        description="authentication and authorization; default: everybody may read, and write with "
        "`push: true`",
    )

    @field_validator("type")
    @classmethod
    def _type_of_grpc(cls, value: str, info: ValidationInfo) -> str:
        if value == "index" and info.data.get("protocol") == "http":
            raise ValueError(
                "must be all on a listener with protocol: http, whose clients ask the same server "
                "for blobs; leave type out, or have a gRPC listener for type: index"
            )
        return value

    @field_validator("auth")
    @classmethod
    def _fits(
        cls, auth: ListenerAuthConfig | None, info: ValidationInfo
    ) -> ListenerAuthConfig | None:
        # A value that was refused is missing here, and has a complaint of its own.
        if auth is None or not {"tls", "push", "address"} <= info.data.keys():
            return auth
        if reason := misfit(auth, info.data["tls"], info.data["push"], info.data["address"]):
            raise ValueError(reason)
        return auth


def misfit(auth: ListenerAuthConfig, tls: TlsConfig | None, push: bool, address: str) -> str | None:
    """Return why these settings contradict each other, and how to fix them."""
    by_certificate = tls is not None and tls.asks_clients
    # On loopback nobody is on the way.
    if auth.takes_tokens and tls is None and not parse_address(address).is_loopback:
        return (
            "tokens would travel as plain text, for everybody on the way to read: add tls to this "
            "listener, or let it listen on 127.0.0.1"
        )
    listed = tls is not None and bool(tls.client_certs or tls.client_ca)
    if auth.clients and not listed and auth.proxy is None:
        return "clients are rules about certificates: set tls.client-ca or tls.client-certs, too"
    if not auth.takes_tokens and not by_certificate and auth.proxy is None:
        return "nobody could show anything: add tokens or jwt here, or client certificates in tls"
    # gRPC asks for a certificate of everybody or of nobody.
    if auth.anonymous != "none" and by_certificate:
        return (
            "anonymous: every caller of this listener shows a certificate; leave it out, or have a "
            "listener of its own for callers without"
        )
    if auth.anonymous == "push" and not push:
        return "anonymous: push, but the listener takes no writes: say `push: true`, too"
    return None
