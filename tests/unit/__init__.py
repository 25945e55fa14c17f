"""Tests of modules alone, with a small fake model or the real one: `make check`."""
