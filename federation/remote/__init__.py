"""A client for any server of the protocol: a node of this project, casd, BuildGrid, or another.

Both upstreams and peers are called through it. It speaks to one server, stays within what that
server supports, and raises typed errors. It does not choose between servers, does not continue at
another one, and does not interpret what it reads.
"""
