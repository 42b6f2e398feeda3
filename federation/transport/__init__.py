"""The node's own gRPC server, over libnghttp2 (through ngh2) and asyncio.

The parts, from the wire up: `tls` and `session` are TLS and HTTP/2 without sockets or clocks;
`framing` and `headers` are what gRPC puts into HTTP/2; `incoming`, `call` and `dispatch` make calls
of it, as services/transport.py wants them; `lifetime` knows what is due when; `connection` and
`server` do the I/O. Who may call, and what a call means, is decided in services/.
"""
