"""Where the package is, what it brings with it, and where data are kept unless a setting says."""

from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent
# What `superres` is imported from: a checkout, or site-packages.
PROJECT_DIR = PACKAGE_DIR.parent
# A wheel has app.py inside the package (pyproject.toml says why), a checkout beside it.
IS_CHECKOUT = not (PACKAGE_DIR / "app.py").is_file()

MODEL_FILE_NAME = "EDSR_x3.pb"
EMBEDDED_MODEL_PATH = PACKAGE_DIR / "models" / MODEL_FILE_NAME

# Never in site-packages, where nobody looks for results.
DEFAULT_DATA_DIR = (PROJECT_DIR if IS_CHECKOUT else Path.cwd()) / "data"
