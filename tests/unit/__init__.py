"""Tests of single modules, with a small fake model or the real one: `make check`."""
