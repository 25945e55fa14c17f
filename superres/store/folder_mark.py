"""Tells a shared folder from the empty mount point while it is not mounted."""

from pathlib import Path

from superres.store.spool import read_identity

MARK = "spool.id"


class FolderMark:
    """A file in the folder with a random word that is chosen once.

    A folder is not used before its mark has been read, nor while the mark is missing: files that
    cannot be seen then are not lost, and files written then would end up in another folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / MARK
        self._word = ""

    def read(self, is_known: bool) -> str:
        """Return the word, which is expected from then on.

        Parameters
        ----------
        is_known : whether the folder has been in use, so that without its mark it is another one

        Raises
        ------
        OSError
            The mark cannot be read now.
        """
        if is_known and not self._path.exists():
            raise FileNotFoundError(
                f"{self._path} is missing: mount the folder that holds the uploads of accepted "
                "jobs. If they are lost, write any word into that file, and the jobs will fail."
            )
        self._word = read_identity(self._path)
        return self._word

    def check(self) -> None:
        """Raise an OSError if the folder is not the one whose mark was read."""
        if not self._word or self._path.read_text() != self._word:
            raise FileNotFoundError(f"{self._path} is not the one that this process started with")
