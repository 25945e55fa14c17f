"""Where the package and its data files are, and the default folder for stored data."""

from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent
# Where `superres` is imported from: a checkout, or site-packages.
PROJECT_DIR = PACKAGE_DIR.parent
# A wheel has app.py inside the package (pyproject.toml says why), a checkout next to it.
IS_CHECKOUT = not (PACKAGE_DIR / "app.py").is_file()

MODEL_FILE_NAME = "EDSR_x3.pb"
EMBEDDED_MODEL_PATH = PACKAGE_DIR / "models" / MODEL_FILE_NAME
RESTORE_MODEL_PATH = PACKAGE_DIR / "models" / "EDSR_x3_restore.pb"

# Never in site-packages, where nobody looks for results.
DEFAULT_DATA_DIR = PROJECT_DIR / "data" if IS_CHECKOUT else Path("data")
