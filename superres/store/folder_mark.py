"""How a folder that machines share is told from the empty one where it is not mounted."""

from pathlib import Path

from superres.store.spool import read_identity

MARK = "spool.id"


class FolderMark:
    """A file in the folder with a word that is chosen once.

    A folder is not used before its mark was read, nor while that is away: what cannot be seen for
    a moment is not gone, and what is written then would be in another folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / MARK
        self._word = ""

    def read(self, is_known: bool) -> str:
        """Return the word, from then on the one that is expected.

        Parameters
        ----------
        is_known : the folder has been in use, so that without its mark it is another one

        Raises
        ------
        OSError
            It cannot be told now.
        """
        if is_known and not self._path.exists():
            raise FileNotFoundError(
                f"{self._path} is missing: mount the folder where the uploads of accepted jobs "
                "are. If they are lost, write a word into that file, and the jobs fail."
            )
        self._word = read_identity(self._path)
        return self._word

    def check(self) -> None:
        """Raise an OSError where the folder is not the one whose mark was read."""
        if not self._word or self._path.read_text() != self._word:
            raise FileNotFoundError(f"{self._path} is not the one that this process began with")
