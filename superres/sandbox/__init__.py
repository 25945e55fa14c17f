"""Processes that may die, in which images are opened and made."""
