"""The gRPC services: decode, call down, encode. One file a service; rpc.py wraps them all."""
