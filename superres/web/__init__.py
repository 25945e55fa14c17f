"""HTTP: routes, CORS, keys, limits, uploads, problems, metrics, the page."""
