"""Mistakes made on purpose, and the tests that must notice: python -m tests.mutants --help."""
