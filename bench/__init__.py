"""Repeatable benchmarks, each with its own command line."""
