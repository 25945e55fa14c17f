"""The super-resolution service.

Rooms, from the ground up: images; sandbox, engines, store, jobs; service; web; server; cli.
"""

__version__ = "0.1.0"
