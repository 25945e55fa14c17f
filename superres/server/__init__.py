"""The gunicorn configuration and worker."""
