"""The policy of the page at /."""

from superres.settings import Settings
from superres.web.web_pages import content_security_policy


def test_page_may_show_and_fetch_results_at_the_public_url() -> None:
    policy = content_security_policy(Settings(public_url="https://cdn.example/sr"))
    directives = policy.split("; ")
    assert "img-src 'self' https://cdn.example blob:" in directives
    assert "connect-src 'self' https://cdn.example" in directives


def test_page_runs_no_script_but_its_own() -> None:
    directives = content_security_policy(Settings()).split("; ")
    assert directives[0] == "default-src 'none'"
    assert "script-src 'self'" in directives
    assert "img-src 'self' blob:" in directives
