"""Tests of the HTTP cache."""
