"""The super-resolution service.

Packages, bottom up: images; sandbox, engines, store, jobs, sources; service; web; server; cli.
"""

__version__ = "1.0.0"
