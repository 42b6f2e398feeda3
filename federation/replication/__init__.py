"""Sending what this node receives to its peers, durably: the change log, followed."""
