"""Sandboxed processes in which images are decoded and encoded, and which may crash."""
