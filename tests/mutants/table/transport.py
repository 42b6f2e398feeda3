"""Mistakes in what the node's own transport lets clients hold, and whom it lets in."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_ROOM = "federation/transport"
_SESSION = ("tests/transport/test_session.py",)
_FLOODS = ("tests/transport/test_floods.py",)
_OVERHEAD = ("tests/transport/test_overhead.py",)
_TLS = ("tests/transport/test_tls.py",)
_CONTRACT = ("tests/contracts/server_transport",)

TRANSPORT = [
    Mutant(
        "http2-acknowledge-all",
        f"{_ROOM}/session.py",
        "auto_window_update=False",
        "auto_window_update=True",
        _SESSION,
        "A stream may send without end to a handler that does not read.",
    ),
    Mutant(
        "http2-connection-window",
        f"{_ROOM}/session.py",
        "        self._http2.set_local_window_size(_WINDOW_MAX)\n",
        "",
        _SESSION,
        "Streams that are not read block others of their connection.",
    ),
    Mutant(
        "http2-woken-late",
        f"{_ROOM}/connection.py",
        "if self.session.has_output() or self.waiting or self._life.is_closing:",
        "if self.session.has_output() or self._life.is_closing:",
        ("tests/transport/test_connection.py",),
        "A call whose answer has left waits for ever once its client takes more.",
    ),
    Mutant(
        "http2-overhead",
        f"{_ROOM}/overhead.py",
        "return self._allowed_bytes >= 0",
        "return self._allowed_bytes >= -(2**40)",
        _FLOODS,
        "A flood of control frames goes on for ever.",
    ),
    Mutant(
        "http2-under-way-bound",
        f"{_ROOM}/overhead.py",
        "max(undelivered_bytes, -self._windows_bytes - _FRAME_BYTES)",
        "undelivered_bytes",
        _OVERHEAD,
        "Calls that are refused buy room for data of streams that are over, without a bound.",
    ),
    Mutant(
        "http2-frame-cut-off",
        f"{_ROOM}/overhead.py",
        "undelivered_bytes = self._undelivered_bytes - window_bytes - _FRAME_BYTES",
        "undelivered_bytes = self._undelivered_bytes - window_bytes",
        _OVERHEAD,
        "A correct client whose calls are answered within a frame loses its connection.",
    ),
    Mutant(
        "http2-early-reset",
        f"{_ROOM}/session.py",
        "            self.reset(stream, ErrorCode.NO_ERROR)\n",
        "            continue\n",
        _SESSION,
        "A client goes on to send what nobody wants.",
    ),
    Mutant(
        "http2-partial-chain",
        "federation/access/tls_contexts.py",
        "context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN",
        "pass",
        _TLS,
        "A listed certificate that an authority signed is not let in.",
    ),
    Mutant(
        "http2-certificate-optional",
        "federation/access/tls_contexts.py",
        "ssl.CERT_REQUIRED",
        "ssl.CERT_OPTIONAL",
        _TLS,
        "Clients without a certificate connect to a listener that asks for one.",
    ),
    Mutant(
        "http2-files-reloaded",
        "federation/access/tls_contexts.py",
        "if pair is not self._pair:",
        "if pair is None:",
        _TLS,
        "New connections are met with the files of the start.",
    ),
    Mutant(
        "http2-half-message",
        f"{_ROOM}/call.py",
        "return incoming.is_half_closed and not incoming.held_bytes and not self.is_over",
        "return incoming.is_half_closed and not self.is_over",
        ("tests/transport/test_server.py",),
        "An upload that breaks off within a message looks complete.",
    ),
    Mutant(
        "http2-message-bound",
        f"{_ROOM}/framing.py",
        "if size_bytes > self._most_bytes:",
        "if size_bytes > 2**32:",
        _CONTRACT,
        "A message of any size is taken into memory.",
    ),
    Mutant(
        "http2-unread-budget",
        f"{_ROOM}/incoming.py",
        "self._count_unread(unread_bytes - self._unread_bytes)",
        "self._count_unread(0)",
        ("tests/transport/test_incoming.py",),
        "What has come and nobody reads is in no budget.",
    ),
]
