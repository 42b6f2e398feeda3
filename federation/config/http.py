"""The keys about the HTTP address: where metrics, health and pages are, and who may see them."""

from typing import Literal

from pydantic import ValidationInfo, field_validator

from federation.config.auth import ListenerAuthConfig
from federation.config.listeners import ListenerConfig, TlsConfig, misfit
from federation.config.section import Section, key
from federation.config.types import AddressText, FilePath, Name, parse_address


class HttpConfig(Section):
    """The HTTP address."""

    address: AddressText | None = key(
        live=False, default="127.0.0.1:8981", description="host:port; null: none"
    )
    socket: FilePath | None = key(
        live=False,
        default=None,
        description="a Unix socket with the same pages, for every caller that its folder lets in "
        "and that is of its owner or group; default: none",
    )
    pages: Literal["auto", "admin", "open"] = key(
        live=False,
        default="auto",
        description="who may see anything but health at the address: admin: callers with the role "
        "admin; open: all; auto: all on a loopback address without tls.client-certs and auth, else "
        "admin",
    )
    hosts: list[Name] = key(
        live=False,
        default=[],
        max_length=100,
        description="names by which callers may address it in URLs, beside IP addresses, localhost "
        "and this machine's own name; others are refused",
    )
    tls: TlsConfig | None = key(
        live=False, default=None, description="as of a listener; without it the address is plain"
    )
    auth: ListenerAuthConfig | None = key(
        live=False, default=None, description="as of a listener; default: nobody has a role"
    )

    @field_validator("auth")
    @classmethod
    def _fits(
        cls, auth: ListenerAuthConfig | None, info: ValidationInfo
    ) -> ListenerAuthConfig | None:
        address = info.data.get("address")
        # A value that was refused is missing here, and has a complaint of its own.
        if auth is None or address is None or "tls" not in info.data:
            return auth
        if reason := misfit(auth, info.data["tls"], True, address):
            raise ValueError(reason)
        return auth

    @property
    def asks_callers(self) -> bool:
        """Whether callers can show who they are."""
        return self.auth is not None or (self.tls is not None and self.tls.asks_clients)

    @property
    def is_open(self) -> bool:
        """Whether everybody who reaches the address may see all pages."""
        # Only programs of this machine reach loopback, and tools expect open metrics there.
        if self.pages == "auto" and self.address is not None:
            return not self.asks_callers and parse_address(self.address).is_loopback
        return self.pages == "open"

    def as_listener(self) -> ListenerConfig | None:
        """Return a listener with the same TLS and authentication; None: it needs no files."""
        if self.address is None or (self.tls is None and self.auth is None):
            return None
        return ListenerConfig(
            address=self.address,
            protocol="http",
            # Roles above pull count only where writes are taken, and pages ask for admin.
            push=True,
            tls=self.tls,
            auth=self.auth,
        )
