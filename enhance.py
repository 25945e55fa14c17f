"""Enlarge pictures from the command line: `superres.cli.enhance`, for a checkout."""

import sys

from superres.cli.enhance import main

if __name__ == "__main__":
    sys.exit(main())
