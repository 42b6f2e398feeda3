"""zstd for blobs: decoding with bounded memory and size, and encoding.

A decoder does not trust the sizes in frame headers: output comes in pieces, the window is limited,
and decoding stops one byte past the blob's size. A blob may consist of several frames, including
skippable ones (RFC 8878).
"""

from __future__ import annotations

import sys

from federation.core.errors import InvalidRequest

if sys.version_info >= (3, 14):
    from compression import zstd as _zstd
else:
    from backports import zstd as _zstd

PIECE_BYTES = 2**20
WINDOW_LOG_MAX = 23  # 8 MiB; RFC 8878 asks decoders for that much, and level 19 needs it
LEVEL = 3
_FRAMES_MIN = 1000  # most frames of a blob, beside one for each KiB of it

_OPTIONS = {int(_zstd.DecompressionParameter.window_log_max): WINDOW_LOG_MAX}


class Decoder:
    """Decodes one blob of a known size: push what arrives, pull until it returns None, finish."""

    def __init__(self, size_bytes: int) -> None:
        self._left_bytes = size_bytes
        self._frames_left = _FRAMES_MIN + size_bytes // 1024
        self._frame: _zstd.ZstdDecompressor | None = None
        self._input = b""

    def push(self, data: bytes | memoryview) -> None:
        """Take compressed bytes; everything pushed before must have been pulled."""
        self._input += data

    def pull(self) -> bytes | None:
        """Return the next 1 byte to 1 MiB of the blob; None: push more.

        Raises InvalidRequest when the data is not zstd, or gives more bytes than the blob has.
        """
        # A frame may have more to give than was asked for, also without further input.
        while self._input or (self._frame is not None and not self._frame.needs_input):
            # One byte beyond shows that there is more, and no more than that is ever unpacked.
            piece = self._step(min(PIECE_BYTES, self._left_bytes + 1))
            if piece:
                if len(piece) > self._left_bytes:
                    raise InvalidRequest("the zstd data expands to more bytes than the digest says")
                self._left_bytes -= len(piece)
                return piece
        return None

    def _step(self, max_bytes: int) -> bytes:
        if self._frame is None:
            # Empty frames take nine bytes and a decoder each, and give nothing.
            if self._frames_left == 0:
                raise InvalidRequest("the zstd data has too many frames for its size")
            self._frames_left -= 1
            self._frame = _zstd.ZstdDecompressor(options=_OPTIONS)
        data, self._input = self._input, b""
        try:
            piece = self._frame.decompress(data, max_bytes)
        except _zstd.ZstdError as error:
            raise InvalidRequest(f"the data is not zstd that this node takes: {error}") from None
        if self._frame.eof:
            self._input = self._frame.unused_data
            self._frame = None
        return piece

    def finish(self) -> None:
        """Declare the end of the data. Raises InvalidRequest if some is missing."""
        if self._frame is not None:
            raise InvalidRequest("the zstd data ends inside a frame")
        if self._left_bytes:
            raise InvalidRequest(
                f"the zstd data expands to {self._left_bytes} bytes less than the digest says"
            )


def decode(data: bytes, size_bytes: int) -> bytes:
    """Decode a whole blob of this size. Raises InvalidRequest."""
    decoder = Decoder(size_bytes)
    decoder.push(data)
    pieces = []
    while (piece := decoder.pull()) is not None:
        pieces.append(piece)
    decoder.finish()
    # Joining copies, and small blobs come in one piece.
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Encoder:
    """Encodes a stream as one frame; with memory for one window, whatever its length."""

    def __init__(self) -> None:
        self._compressor = _zstd.ZstdCompressor(level=LEVEL)

    def encode(self, data: bytes) -> bytes:
        """Encode the next bytes; the result may be empty."""
        return self._compressor.compress(data)

    def finish(self) -> bytes:
        """Return the end of the frame."""
        return self._compressor.flush()


def encode(data: bytes) -> bytes:
    """Encode a whole blob."""
    return _zstd.compress(data, level=LEVEL)
