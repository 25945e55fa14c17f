"""The jobs table: states, schema, and two database engines."""
