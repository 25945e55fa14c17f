"""Tests with real Nginx in front of real gunicorn."""
