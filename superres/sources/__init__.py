"""Images at other servers: signed addresses, and fetching from public networks only."""
