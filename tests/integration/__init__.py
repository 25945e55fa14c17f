"""Tests with real servers, databases and programs on loopback."""
