"""The rules of one upload as a state machine (google.bytestream WriteRequest; REAPI v2, CAS).

It counts bytes as they are sent: blob bytes of a plain upload, compressed ones of a zstd upload.
A request that breaks a rule raises InvalidRequest and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.core.errors import InvalidRequest

_ZSTD_SLACK_BYTES = 2**20  # headers and skippable frames


@dataclass(slots=True)
class Upload:
    """The state of one upload, over all streams that send parts of it."""

    size_bytes: int  # of the blob, uncompressed
    compressed: bool = False
    received_bytes: int = 0
    finished: bool = False
    _name: str | None = None  # the running stream's resource name, as its client wrote it

    @property
    def resumable_bytes(self) -> int:
        """The offset at which another stream may continue. A zstd upload can only start over."""
        return 0 if self.compressed else self.received_bytes

    @property
    def most_bytes(self) -> int:
        """The largest number of bytes that may be sent."""
        if not self.compressed:
            return self.size_bytes
        # zstd adds less than a hundredth to random bytes; the rest is for careless encoders.
        return self.size_bytes + self.size_bytes // 2 + _ZSTD_SLACK_BYTES

    def begin_stream(self, resource_name: str, write_offset: int) -> bool:
        """Take the first message of a stream. Return True if the upload starts over."""
        # 0 is always right: a client that lost its state, or never asked, begins anew.
        if write_offset not in {0, self.resumable_bytes}:
            raise InvalidRequest(
                f"write_offset {write_offset}; this upload goes on at {self.resumable_bytes}, "
                "or starts over at 0"
            )
        restarts = write_offset == 0 and self.received_bytes > 0
        if restarts:
            self.received_bytes = 0
        # A stream may come for what was sent whole and not yet committed, as after a lost answer.
        self.finished = False
        self._name = resource_name
        return restarts

    def receive(
        self, resource_name: str, write_offset: int, data_bytes: int, finish_write: bool
    ) -> None:
        """Take a message of the stream, the first one too; its data may then be ingested."""
        if self.finished:
            raise InvalidRequest("a message after the one with finish_write")
        # Only the first message has to have it; in others it must be the same (WriteRequest).
        if resource_name and resource_name != self._name:
            raise InvalidRequest("resource_name differs from the first message's")
        if write_offset != self.received_bytes:
            raise InvalidRequest(f"write_offset {write_offset}, expected {self.received_bytes}")
        end = write_offset + data_bytes
        if end > self.most_bytes:
            raise InvalidRequest(f"{end} bytes sent for a blob of {self.size_bytes}")
        # Of a zstd upload only the decoder knows whether it is whole.
        if finish_write and not self.compressed and end != self.size_bytes:
            raise InvalidRequest(f"finish_write after {end} bytes of {self.size_bytes}")
        self.received_bytes = end
        self.finished = finish_write


@dataclass(slots=True)
class StreamProgress:
    """Counts bytes in windows of time; a window with too few of them is a stall.

    A timer for silence alone would be reset by one byte now and then.
    """

    window_s: float
    begun_s: float
    least_bytes: int = 4096
    _seen_bytes: int = 0

    def saw(self, size_bytes: int, now_s: float) -> bool:
        """Count bytes. Return False if too few came in the window that has just ended."""
        self._seen_bytes += size_bytes
        if now_s - self.begun_s < self.window_s:
            return True
        enough = self._seen_bytes >= self.least_bytes
        self.begun_s, self._seen_bytes = now_s, 0
        return enough
