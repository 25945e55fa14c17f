"""Model files: verifies their SHA-256, and reads the golden tile that checks their output."""

import hashlib
from io import BytesIO
from pathlib import Path

from superres.errors import ModelError
from superres.images.image_codec import decode_image
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH


def read_expected_sha256(model_path: Path) -> str | None:
    """Return the model's SHA-256 from the SHA256SUMS file next to it, if listed there."""
    try:
        lines = model_path.with_name("SHA256SUMS").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        digest, _, name = line.partition("  ")
        if name == model_path.name:
            return digest
    return None


def hash_model(model_path: Path) -> str:
    """Return a model file's SHA-256.

    Raises
    ------
    ModelError
        The file cannot be read, or does not match SHA256SUMS.
    """
    try:
        digest = hashlib.sha256(model_path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read the model {model_path}: {error.strerror}") from None
    if read_expected_sha256(model_path) not in {None, digest}:
        raise ModelError(f"{model_path} is damaged: its SHA-256 does not match SHA256SUMS")
    return digest


def read_golden_tile(output: str = "golden_output.png") -> tuple[Pixels, Pixels]:
    """Return a tile, and what an embedded model must produce from it: the image of that name."""
    golden_input, golden_output = (
        decode_image(BytesIO(EMBEDDED_MODEL_PATH.with_name(name).read_bytes())).pixels
        for name in ("golden_input.png", output)
    )
    return golden_input, golden_output
