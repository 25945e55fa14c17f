"""From an upload to its result: admission, running, recovery."""
