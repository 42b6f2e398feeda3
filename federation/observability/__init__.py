"""Metrics, logs, and limits on log lines."""
