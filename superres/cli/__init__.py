"""The command line."""

# What a shell reports of a command that SIGINT ended.
INTERRUPTED = 130
