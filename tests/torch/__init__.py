"""Tests that need PyTorch, which takes gigabytes: `make test-torch`, not `make test`."""
