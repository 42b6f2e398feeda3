"""The node's HTTP cache: blobs, action results and keyed entries over HTTP/1.1.

A keyed entry is a value under a key that its client chose, in a namespace (`kv/main`, `gradle`,
`turborepo`, `nx`). What a call means is decided here; aiohttp parses requests, and every call goes
through services/pipeline.py, as those of gRPC do.
"""
