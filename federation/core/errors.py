"""Every error that passes from one room to another, as a type with a sentence and fields.

Absence (BlobNotFound) and silence (SourceUnavailable) are different types: a store that did not
answer must never look like one that does not hold the blob. services/ has the one table that maps
these types to gRPC status codes; nothing anywhere matches on message text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from federation.core.digest import Digest


class FederationError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidRequest(FederationError):
    """What the caller sent can never be right; the message says what, and how to mend it."""


class RequestTooLarge(InvalidRequest):
    """A message that is larger, or has more in it, than any honest one."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit  # what bounds it, as LimitHits names it


class BlobNotFound(FederationError):
    """The store answered and does not hold the blob."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"blob {digest} is not here")
        self.digest = digest


class EntryNotFound(FederationError):
    """No action result or asset that may be served answers the request."""


class SourceUnavailable(FederationError):
    """A source did not answer, so absence is unknown. Retryable."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source} unavailable: {reason}")
        self.source = source
        self.reason = reason


class OffsetOutside(FederationError):
    """A read offset lies outside 0..size (google.bytestream ReadRequest: OUT_OF_RANGE)."""

    def __init__(self, digest: Digest, offset: int) -> None:
        super().__init__(f"offset {offset} is outside 0..{digest.size_bytes} of blob {digest}")
        self.digest = digest
        self.offset = offset


class DigestMismatch(FederationError):
    """The bytes received are not those that the digest names. Nothing was kept."""

    def __init__(self, digest: Digest, found: str) -> None:
        super().__init__(f"blob {digest}: {found}; nothing was stored")
        self.digest = digest


class BlobDamaged(FederationError):
    """A held blob turned out wrong after its first byte had been handed out (DATA_LOSS)."""

    def __init__(self, digest: Digest, reason: str) -> None:
        super().__init__(f"blob {digest} is damaged here ({reason}) and was quarantined")
        self.digest = digest


class BlobTooLarge(FederationError):
    """The digest names more bytes than this node stores in one blob."""

    def __init__(self, digest: Digest, max_bytes: int) -> None:
        super().__init__(f"blob {digest} is larger than the {max_bytes} bytes stored in one blob")
        self.digest = digest
        self.max_bytes = max_bytes


class StorageFull(FederationError):
    """No room: the quota, the disk's reserve or the disk itself is used up. Reads go on."""


class StorageFailed(FederationError):
    """The catalogue cannot be written any more; what is durable stays readable."""


class LeadLost(StorageFailed):
    """Another process replicates by now; what this one wanted to write as the lead is dropped."""


class StorageRefused(FederationError):
    """The data directory cannot be opened as it is; the message says what to do."""


class TooBusy(FederationError):
    """A bound of this node (uploads, memory, queue) is reached. Retryable."""


class LimitReached(TooBusy):
    """A bound on what one caller, or all of them, may have of this node is reached. Retryable."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


class NotAllowed(FederationError):
    """The caller has no right to do this on this listener."""


class NotAuthenticated(FederationError):
    """The caller's credentials are missing or not valid; others could give it the right."""


class UploadSuperseded(FederationError):
    """Another stream took over this upload (same resource name)."""


class Stalled(FederationError):
    """The other side made no progress for the configured time."""


class ConfigError(FederationError):
    """A setting is unknown or has a bad value; the message names file, path and what is allowed."""


class CannotStart(FederationError):
    """The node cannot take what it needs to serve, such as a port; nothing was left running."""
