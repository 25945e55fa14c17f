"""What gunicorn reads in its working folder: `superres.server.gunicorn_conf`, in a checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from superres.server.gunicorn_conf import *
