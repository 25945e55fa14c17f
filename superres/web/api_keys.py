"""API keys: reads their file, and looks up a request's key.

The file named by `SR_API_KEYS_FILE` has a line `NAME:SHA-256 of the key` for each, which
`superres key NAME` prints. Removing a line revokes its key. The file is reread when it changes.
"""

import hashlib
import hmac
import logging
import re
import secrets
import threading
from pathlib import Path

from superres.errors import ConfigError

NAME_PATTERN = r"[A-Za-z0-9._-]{1,64}"
LINE_PATTERN = re.compile(rf"({NAME_PATTERN}):([0-9a-f]{{64}})")
KEY_PREFIX = "sr_"
KEY_BYTES = 32

logger = logging.getLogger(__name__)


def make_key() -> str:
    """Return a new key: 256 random bits, safe from dictionary attacks, so a plain hash suffices."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_key(key: str) -> str:
    """Return the hash of a key that the file stores."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse_keys(text: str) -> dict[str, str]:
    """Read a keys file: hash -> name. Empty lines and those that begin with # are ignored.

    Raises
    ------
    ConfigError
        Lists the malformed lines.
    """
    keys, faults = {}, []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE_PATTERN.fullmatch(line.strip())
        if match is None:
            faults.append(str(number))
        else:
            keys[match[2]] = match[1]
    if faults:
        raise ConfigError(f"no NAME:SHA-256 in line {', '.join(faults)}")
    return keys


class ApiKeys:
    """The keys in a file, reloaded when it changes.

    Attributes
    ----------
    are_stale : whether the changed file cannot be read, so that the previous keys still apply

    Raises
    ------
    ConfigError
        The file cannot be read, or has a malformed line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.are_stale = False
        try:
            self._version = self._stat()
            self._keys = parse_keys(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the API keys {path}: {error.strerror}") from None
        except (ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"the API keys {path}: {error}") from None

    def _stat(self) -> tuple[int, ...]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def find(self, key: str) -> str | None:
        """Return the name of a key's owner; None if there is no such key."""
        self._reload_if_changed()
        digest = hash_key(key)
        # All are compared, each in constant time, so that timing reveals nothing.
        names = [name for known, name in self._keys.items() if hmac.compare_digest(known, digest)]
        return names[0] if names else None

    def _reload_if_changed(self) -> None:
        """Reread a changed file; if it cannot be read, keep the current keys."""
        with self._lock:
            try:
                version = self._stat()
                if version == self._version:
                    return
                self._version = version
                self._keys = parse_keys(self._path.read_text(encoding="utf-8"))
            except (OSError, ConfigError, UnicodeDecodeError) as error:
                if not self.are_stale:
                    logger.error("keeping the previous API keys: %s", error)
                self.are_stale = True
                self._version = ()
                return
            self.are_stale = False
            logger.info("%d API keys", len(self._keys))
