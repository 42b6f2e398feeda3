"""The node as a cache over HTTP, beside nginx with a WebDAV folder and the node over gRPC."""
