"""The jobs table: its states, its schema, and its two databases."""
