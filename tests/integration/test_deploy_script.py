"""deploy_test.sh, the operator's smoke test, against the real service."""

import os
import subprocess
from pathlib import Path

import pytest

from superres.paths import EMBEDDED_MODEL_PATH, PROJECT_DIR
from superres.sources.signed_address import AUTO, ImageRequest, sign_address
from superres.web.api_keys import hash_key, make_key
from testkit.service import find_free_port, run_light_service
from testkit.source_server import Page, run_source_server


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROJECT_DIR / "deploy_test.sh"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_script_passes_a_development_service(tmp_path: Path) -> None:
    with run_light_service(tmp_path) as service:
        done = run_script(service.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert "for development" in done.stdout
    assert done.stdout.endswith("all checks passed\n")


def test_script_tells_an_allowed_origin_from_a_refused_one(tmp_path: Path) -> None:
    picture = EMBEDDED_MODEL_PATH.with_name("golden_input.png")
    with run_light_service(tmp_path, cors_origins="https://a.example") as service:
        allowed = run_script(f"{service.url}/", "https://a.example", str(picture))
        refused = run_script(service.url, "https://b.example", str(picture))
    assert allowed.returncode == 0, allowed.stdout + allowed.stderr
    assert "pass  preflight of https://a.example is allowed" in allowed.stdout
    assert "pass  preflight of https://not-allowed.example is refused" in allowed.stdout
    assert refused.returncode == 1
    assert "FAIL  preflight of https://b.example is allowed" in refused.stdout
    assert refused.stdout.count("FAIL") == 1


def test_script_takes_an_api_key(tmp_path: Path) -> None:
    key = make_key()
    (tmp_path / "keys").write_text(f"operator:{hash_key(key)}\n")
    with run_light_service(tmp_path, api_keys_file=tmp_path / "keys") as service:
        refused = run_script(service.url)
        done = run_script(service.url, SR_API_KEY=key)
    assert refused.returncode == 1
    assert done.returncode == 0, done.stdout + done.stderr


def test_script_checks_an_image_by_its_address(tmp_path: Path) -> None:
    key = "k" * 32
    with (
        run_source_server() as sources,
        run_light_service(tmp_path, url_key=key, source_networks="127.0.0.0/8") as service,
    ):
        sources.pages["/a.png"] = Page(
            EMBEDDED_MODEL_PATH.with_name("golden_input.png").read_bytes()
        )
        signed = sign_address(key, ImageRequest(sources.url("/a.png"), AUTO, {}))
        done = run_script(service.url, SR_IMAGE_ADDRESS=f"https://sr.example{signed}")
        wrong = run_script(service.url, SR_IMAGE_ADDRESS=signed.replace("scale:3", "scale:2"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass  a signed address is an image" in done.stdout
    assert wrong.returncode == 1
    assert "FAIL  a signed address is an image: got '403 application/problem+json'" in wrong.stdout


def test_script_fails_where_nobody_answers() -> None:
    done = run_script(f"http://127.0.0.1:{find_free_port()}")
    assert done.returncode == 1
    assert "FAIL  health answers" in done.stdout


def test_script_explains_itself() -> None:
    done = run_script("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: deploy_test.sh [BASE_URL] [ORIGIN] [IMAGE]" in done.stdout


@pytest.mark.parametrize(
    "arguments", [("--wrong",), ("a", "b", "c", "d"), ("http://x", "http://y", "/absent.png")]
)
def test_wrong_arguments_exit_with_two(arguments: tuple[str, ...]) -> None:
    assert run_script(*arguments).returncode == 2
