"""The super-resolution service.

Rooms, from the ground up: images; sandbox, engines, store, jobs; service; web and cli; server.
"""
