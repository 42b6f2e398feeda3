"""Attacks on a real node, beside an honest client: see harness."""
