from pathlib import Path

import pytest

from superres.errors import ConfigError
from superres.paths import EMBEDDED_MODEL_PATH
from superres.settings import Settings


def test_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings().model_path == EMBEDDED_MODEL_PATH


def test_variables_of_other_programs_are_nobodys_business() -> None:
    assert Settings.from_env({"PATH": "/bin", "SRX": "1"}) == Settings()


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {
            "SR_MODEL_PATH": str(tmp_path / "other.pb"),
            "SR_CACHE_DIR": "/var/cache/sr",
            "SR_MAX_UPLOAD_BYTES": "1000",
            "SR_CORS_ENABLED": "False",
            "SR_CORS_ORIGINS": "https://A.example/, http://localhost:5173",
            "SR_PUBLIC_URL": "https://sr.example/prefix/",
            "SR_TRUSTED_PROXIES": "1",
        }
    )
    assert settings.model_path == tmp_path / "other.pb"
    assert settings.cache_dir == Path("/var/cache/sr")
    assert settings.max_upload_bytes == 1000
    assert settings.cors_enabled is False
    assert settings.cors_origins == ("https://a.example", "http://localhost:5173")
    assert settings.public_url == "https://sr.example/prefix"
    assert settings.trusted_proxies == 1


def test_model_path_may_be_the_folder_that_holds_the_model(tmp_path: Path) -> None:
    settings = Settings.from_env({"SR_MODEL_PATH": str(tmp_path)})
    assert settings.model_path == tmp_path / "EDSR_x3.pb"


def test_body_limit_leaves_room_for_multipart_headers() -> None:
    assert Settings(max_upload_bytes=1000).max_body_bytes == 1000 + 64 * 1024


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"SR_LANES": "-1", "SR_MAX_INPUT_PIXELS": "many"})
    text = str(caught.value)
    for name in ("SR_LANES", "SR_MAX_INPUT_PIXELS"):
        assert name in text


def test_unknown_variable_is_named_in_the_log_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Kubernetes sets SR_PORT for a service named sr.
    assert Settings.from_env({"SR_CORS_ORIGIN": "x", "SR_PORT": "tcp://10.0.0.1"}) == Settings()
    assert "SR_CORS_ORIGIN is not a setting" in caplog.text


def test_default_port_is_left_out_of_an_origin_as_browsers_do() -> None:
    origins = "https://a.example:443,http://b.example:80,https://c.example:80"
    assert Settings.from_env({"SR_CORS_ORIGINS": origins}).cors_origins == (
        "https://a.example",
        "http://b.example",
        "https://c.example:80",
    )


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost/", "ionic://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("chrome-extension://abcdefghijklmnopabcdefghijklmnop",) * 2,
        ("moz-extension://8b7c6a5d-0000-4000-8000-000000000001",) * 2,
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        # As in browsers, unlike Python's own codec of 2003.
        ("https://straße.example", "https://xn--strae-oqa.example"),
        ("http://例え.jp:8080", "http://xn--r8jz45g.jp:8080"),
    ],
)
def test_origin_is_read_as_browsers_send_it(listed: str, sent: str) -> None:
    assert Settings.from_env({"SR_CORS_ORIGINS": listed}).cors_origins == (sent,)


@pytest.mark.parametrize(
    "origin",
    [
        "a.example",
        "file://",
        "file:///android_asset",
        "data://a",
        "chrome-extension://*",
        "capacitor://",
        "https://a b.example",
        "https://xn--.ü",
        "https://a.example?",
        "https://a.example/path",
        "https://*.example",
        r"https://a\.example",
        "https://a.example$",
        "http://[::1]:5173",
        "https://user@a.example",
        "ftp://a.example",
        "https://a.example:99999",
        "null",
    ],
)
def test_origin_that_would_not_match_literally_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match="SR_CORS_ORIGINS"):
        Settings.from_env({"SR_CORS_ORIGINS": origin})


@pytest.mark.parametrize("text", ["", "*", " "])
def test_no_origin_and_star_mean_any(text: str) -> None:
    assert Settings.from_env({"SR_CORS_ORIGINS": text}).cors_origins == ()


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SR_MAX_UPLOAD_BYTES", "0"),
        ("SR_MAX_UPLOAD_BYTES", "9" * 20),  # as the table of jobs could not store it
        ("SR_UPLOAD_TIMEOUT_SECONDS", "9" * 11),  # as no socket could wait
        ("SR_DATA_DIR", "~nobody-of-this-name/sr"),
        ("SR_MODEL_PATH", "9" * 300),
        ("SR_CORS_ENABLED", "maybe"),
        ("SR_PUBLIC_URL", "sr.example"),
        ("SR_PUBLIC_URL", "https://sr.example/?a=b"),
        ("SR_PUBLIC_URL", 'https://sr.example/"x'),
        ("SR_DATA_DIR", "~nobody-of-this-name/data"),
        ("SR_MODEL_PATH", "a" * 300),
        ("SR_RESTORE_MODEL_PATH", "a" * 300),
        ("SR_RATE_LIMIT_REQUESTS", "60"),
        ("SR_RATE_LIMIT_PIXELS", "60/fortnight"),
    ],
)
def test_wrong_value_names_its_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        Settings.from_env({variable: text})


def test_keys_are_read_and_never_shown() -> None:
    key, other = "k" * 32, "o" * 32
    settings = Settings.from_env({"SR_URL_KEY": f"{key}, {other}"})
    assert settings.url_key == (key, other)
    assert key not in repr(settings)
    for text in ("secret", f"{key},{other},{key}", f"{key[:-1]}é"):
        with pytest.raises(ConfigError, match="SR_URL_KEY") as caught:
            Settings.from_env({"SR_URL_KEY": text})
        assert text not in str(caught.value)
        assert "k" * 31 not in str(caught.value)


def test_networks_are_read() -> None:
    settings = Settings.from_env({"SR_SOURCE_NETWORKS": "10.1.0.0/16, fd00:1::/64,"})
    assert [str(each) for each in settings.source_networks] == ["10.1.0.0/16", "fd00:1::/64"]
    for text in ("10.1.0.1/16", "intranet.example"):
        with pytest.raises(ConfigError, match=r"not a network such as 10\.1\.0\.0/16"):
            Settings.from_env({"SR_SOURCE_NETWORKS": text})


def test_host_names_are_read() -> None:
    settings = Settings.from_env({"SR_TRUSTED_HOSTS": "SR.example, .sr.example.net,nas,"})
    assert settings.trusted_hosts == ("sr.example", ".sr.example.net", "nas")


@pytest.mark.parametrize(
    "text", ["https://sr.example", "sr.example:80", "*.sr.example", "*", "a b", ".", "a..b", "ü.de"]
)
def test_what_is_no_host_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="SR_TRUSTED_HOSTS"):
        Settings.from_env({"SR_TRUSTED_HOSTS": text})
