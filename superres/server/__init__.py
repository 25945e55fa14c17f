"""gunicorn: its worker."""
