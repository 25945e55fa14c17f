"""Fetches from servers on loopback, with host names that a test chooses."""

import ipaddress
from collections.abc import Sequence

from superres.setting_parsers import parse_networks
from superres.sources.connections import resolve_name
from superres.sources.fetcher import Fetched, Fetcher, Validators
from superres.sources.public_networks import Address

MAX_BYTES = 1_000_000
LOOP_ID = "superres-0123"
# What a server sends.
BODY = b"an image" * 1000
OK = b"HTTP/1.1 200 OK\r\n"


class Names:
    """A resolver: each name has a list of answers, of which the last stays."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = {name.replace("_", "."): [*each] for name, each in answers.items()}
        self.asked: list[str] = []

    def resolve(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        if host not in self.answers:
            return resolve_name(host, port)
        texts = self.answers[host]
        found = texts.pop(0) if len(texts) > 1 else texts[0]
        return [ipaddress.ip_address(text) for text in found.split()]


def make_fetcher(names: Names | None = None, networks: str = "127.0.0.1/32") -> Fetcher:
    return Fetcher(MAX_BYTES, parse_networks(networks), LOOP_ID, (names or Names()).resolve)


def fetch(url: str, known: Validators | None = None, names: Names | None = None) -> Fetched:
    found = make_fetcher(names).fetch(url, known)
    assert isinstance(found, Fetched)
    return found


def content(fetched: Fetched) -> bytes:
    with fetched.file as file:
        return file.read()
