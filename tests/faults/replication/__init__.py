"""Nodes that replicate to each other over links that a test can cut, freeze and slow down."""
