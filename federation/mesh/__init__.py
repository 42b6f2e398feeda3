"""Who is in this node's mesh, and how nodes join it.

A *member* is a node that replicates to, and accepts replication from, every other member. An
*invitation* is a client certificate that the inviter's listener accepts for one call, Join. The
invitation's *code* is what an operator takes to the other site; the certificate's private key is
derived from the secret in it, and the inviter's listener is recognised by the fingerprint in it. So
TLS authenticates both ends, and whoever lacks the code gets no further than the handshake. The
inviter *introduces* the members that it knows to each other.
"""
