"""A node under mixed load for hours: what it holds has to stay flat.

python -m tests.transport.soak --minutes 120
"""
