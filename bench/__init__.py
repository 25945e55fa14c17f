"""Repeatable measurements, each with its command line."""
