"""Processes that may die, in which pictures are opened and made."""
