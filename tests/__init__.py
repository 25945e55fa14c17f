"""Tests, and what the benchmarks share with them."""
