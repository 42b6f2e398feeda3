"""The rules of RFC 9113 and RFC 7541 that apply to a server, each by its section.

A case is what a client sends, as frames of our own making, and what the transport makes of it.
"""
