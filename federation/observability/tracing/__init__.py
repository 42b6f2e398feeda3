"""Traces: which calls are followed from client to node to upstream, and what is told of each.

A *trace* is all that is done for one request, at however many nodes. A *span* is one call in it:
when it began and ended, and how. Nothing here is imported unless `traces.endpoint` is configured.
"""
