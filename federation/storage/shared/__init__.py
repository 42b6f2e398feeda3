"""The shared engine: one site on PostgreSQL and an S3 bucket, served by any number of nodes.

PostgreSQL has the catalogue and small blobs, the bucket has large blobs, and each node keeps a disk
cache that may be lost at any time. Words: a *part* is up to 8 MiB of a large blob, kept as one
object of the bucket; an *attempt* is one upload of a blob, whose objects share a name that no other
upload has; the *spool* is the file in the cache that an upload is received into; a *fill* copies a
blob from the bucket into the cache while readers follow; the *marker* is the object that says which
site a bucket belongs to. The node that *leads* a role does its work for all nodes of the site.
"""
