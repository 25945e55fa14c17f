"""Settings: every SR_* variable, read once, all errors reported together."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from limits import RateLimitItem

from superres.disk import MEGABYTE
from superres.errors import ConfigError
from superres.origins import parse_origins
from superres.paths import DEFAULT_DATA_DIR, EMBEDDED_MODEL_PATH, RESTORE_MODEL_PATH
from superres.setting_parsers import (
    Network,
    one_of,
    parse_bind,
    parse_boolean,
    parse_database_url,
    parse_hosts,
    parse_keys,
    parse_model_path,
    parse_networks,
    parse_non_negative,
    parse_path,
    parse_positive,
    parse_public_url,
    parse_rate,
    parse_restore_path,
    parse_scheduler,
    parse_seconds,
    parse_store_url,
)

# Multipart boundaries and part headers around the file itself.
MULTIPART_OVERHEAD_BYTES = 64 * 1024
# 80x80, smaller than anything that is upscaled by the thousand.
PIXELS_OF_A_SMALL_JOB = 6400
MIN_QUEUE_JOBS = 100
# Rejected uploads drained at once; the clients of others may see a connection reset.
DRAINS_AT_ONCE = 8
# Requests that wait at once for an image at another server: of each host for two pages, each with
# thirty.
SOURCE_REQUESTS_AT_ONCE = 256

logger = logging.getLogger(__name__)


def setting(
    default: object, parse: Callable[[str], object], help_text: str, *, is_secret: bool = False
) -> Any:
    """Declare a setting: its default, how its text is read, what it means, whether it is hidden."""
    metadata = {"parse": parse, "help": help_text}
    return field(default=default, repr=not is_secret, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """What an operator can set. A field's variable is ``SR_`` and its name in upper case."""

    bind: str = setting("0.0.0.0:7860", parse_bind, "address and port to listen on")
    model_path: Path = setting(
        EMBEDDED_MODEL_PATH,
        parse_model_path,
        "EDSR x3 model as a TensorFlow .pb, or the folder that holds EDSR_x3.pb",
    )
    engine: str = setting(
        "opencv",
        one_of("opencv", "openvino", "torch"),
        "opencv; openvino: several times faster on processors with VNNI or AMX, for the embedded "
        "models only, needs the extra openvino; torch: on a GPU, for models of the embedded "
        "ones' network, needs the extra gpu",
    )
    device: str = setting(
        "cuda",
        one_of("cuda", "cpu"),
        "where torch computes: cuda, a GPU, or cpu, which is only for tests",
    )
    restore_model_path: Path | None = setting(
        RESTORE_MODEL_PATH,
        parse_restore_path,
        "EDSR x3 model for mode=restore, or the folder that holds EDSR_x3_restore.pb; none: the "
        "service has only the default mode",
    )
    restore_preload: bool = setting(
        False,
        parse_boolean,
        "true loads that model at start, instead of when it is first asked for",
    )
    data_dir: Path = setting(
        DEFAULT_DATA_DIR,
        parse_path,
        "folder of all stored data; in a checkout its data/, else data/ in the working directory",
    )
    cache_dir: Path = setting(
        DEFAULT_DATA_DIR / "cache", parse_path, "folder of the stored results, in SR_DATA_DIR"
    )
    state_dir: Path = setting(
        DEFAULT_DATA_DIR / "state",
        parse_path,
        "folder of the jobs table (SQLite), in SR_DATA_DIR: on a local disk, not the folder of the "
        "results",
    )
    database_url: str = setting(
        "",
        parse_database_url,
        "postgresql://... for a jobs table that several machines share; empty: SQLite; needs the "
        "extra postgres",
    )
    store_url: str = setting(
        "",
        parse_store_url,
        "s3://bucket/prefix or file:///folder: where machines share results and the uploads of "
        "accepted jobs; empty: the folder of the results alone; needs the extra s3",
    )
    job_ttl_seconds: int = setting(
        86400, parse_seconds, "how long the status of an asynchronous job is available"
    )
    cache_max_mb: int = setting(
        1024,
        parse_positive,
        "disk space for stored results; beyond it, the least recently used are evicted",
    )
    cache_min_free_mb: int = setting(
        512,
        parse_non_negative,
        "space kept free on their file system; below it, results are evicted too, and asynchronous "
        "uploads get 503",
    )
    cache_max_age_days: int = setting(30, parse_positive, "results unused for longer are evicted")
    spool_max_mb: int = setting(
        512,
        parse_positive,
        "disk space for the uploads of accepted jobs; beyond it, further ones get 503, and so does "
        "a client whose uploads take a quarter of it",
    )
    lanes: int = setting(
        0, parse_non_negative, "tiles computed at once; 0: as many as CPUs and memory allow"
    )
    dask_scheduler: str = setting(
        "",
        parse_scheduler,
        "tls://host:8786 of a Dask cluster that computes the tiles; empty: this machine; needs "
        "the extra cluster",
    )
    keep_metadata: str = setting(
        "safe",
        one_of("all", "safe", "none"),
        "EXIF, XMP, IPTC and texts in results: all; safe: author, rights, camera, exposure and "
        "prompts, no location; none",
    )
    max_upload_bytes: int = setting(16 * 1024**2, parse_positive, "largest accepted file")
    max_input_pixels: int = setting(16_000_000, parse_positive, "most pixels of an upload")
    max_output_pixels: int = setting(144_000_000, parse_positive, "most pixels of a result")
    max_decoded_bytes: int = setting(
        0,
        parse_non_negative,
        "most memory for images being processed; 0: what the machine or its cgroup has",
    )
    max_queue_pixels: int = setting(
        64_000_000,
        parse_positive,
        "most input pixels queued by waiting requests, and as many again by asynchronous jobs; "
        "at most one job for every 6400 of them",
    )
    max_uploads_at_once: int = setting(32, parse_positive, "most uploads read at once")
    upload_timeout_seconds: int = setting(
        30, parse_seconds, "longest pause of a client in the middle of its upload"
    )
    max_waiting_requests: int = setting(
        64, parse_positive, "most requests that wait for a result at once"
    )
    max_sync_seconds: int = setting(240, parse_seconds, "longest time that a request waits")
    api_keys_file: Path | None = setting(
        None,
        parse_path,
        "file of API keys (`superres key NAME >> FILE`); empty: none needed",
    )
    rate_limit_requests: RateLimitItem | None = setting(
        None, parse_rate, "requests of one client to /api, such as 60/minute; empty: no limit"
    )
    rate_limit_pixels: RateLimitItem | None = setting(
        None,
        parse_rate,
        "pixels computed for one client, such as 20000000/hour: the upload's, or a ninth of the "
        "result's if that is more, and a tenth of that for another form of a stored result, or a "
        "preview; empty: no limit",
    )
    rate_limit_image_requests: RateLimitItem | None = setting(
        None,
        parse_rate,
        "requests of one client to /image/, such as 600/minute: a page has many images; empty: no "
        "limit",
    )
    rate_limit_image_pixels: RateLimitItem | None = setting(
        None,
        parse_rate,
        "pixels computed for /image/, counted as above, but for all clients together; empty: no "
        "limit",
    )
    rate_limit_store: str = setting(
        "memory://",
        str.strip,
        "where rates are counted; redis://host:6379 for several machines, with the extra redis",
    )
    cors_enabled: bool = setting(True, parse_boolean, "false leaves the CORS headers to the proxy")
    cors_origins: tuple[str, ...] = setting(
        (),
        parse_origins,
        "origins allowed to use /api, separated by commas: https://app.example, or one of an app "
        "or extension (capacitor://localhost, chrome-extension://...), never null or file://, "
        "which any page can have; empty: any",
    )
    cors_max_age_seconds: int = setting(
        86400, parse_non_negative, "how long browsers may remember a preflight"
    )
    url_key: tuple[str, ...] = setting(
        (),
        parse_keys,
        "secret with which addresses below /image/ are signed, of at least 32 characters: `openssl "
        "rand -hex 32`; two, separated by a comma, while the first replaces the second; empty: "
        "there are no such addresses",
        is_secret=True,
    )
    source_max_age: int = setting(
        3600,
        parse_non_negative,
        "seconds after which the server of an image below /image/ is asked whether it has changed, "
        "if it does not say itself (Cache-Control, Expires)",
    )
    source_networks: tuple[Network, ...] = setting(
        (),
        parse_networks,
        "networks from which such images may be fetched although they are not public, separated by "
        "commas: 10.1.0.0/16, fd00:1::/64",
    )
    public_url: str = setting(
        "", parse_public_url, "URL of the service as clients see it; empty: from the request"
    )
    trusted_hosts: tuple[str, ...] = setting(
        (),
        parse_hosts,
        "host names by which browsers may reach the service, besides that of SR_PUBLIC_URL, IP "
        "addresses and localhost; .sr.example: its subdomains too; both empty: local names",
    )
    log_format: str = setting("human", one_of("human", "json"), "human or json")
    trusted_proxies: int = setting(
        0, parse_non_negative, "number of proxies in front whose X-Forwarded-* headers are trusted"
    )

    @property
    def max_queue_jobs(self) -> int:
        """Most asynchronous jobs in the queue: photos reach the pixel limit first.

        Each is an upload and a row, however few pixels it has.
        """
        return max(self.max_queue_pixels // PIXELS_OF_A_SMALL_JOB, MIN_QUEUE_JOBS)

    @property
    def max_long_polls(self) -> int:
        """Most requests that wait at once for a job's status to change."""
        return max(self.max_waiting_requests // 2, 1)

    @property
    def spool_max_bytes(self) -> int:
        """Most disk space for uploads of accepted jobs."""
        return self.spool_max_mb * MEGABYTE

    @property
    def max_body_bytes(self) -> int:
        """Largest request body: the largest file, and multipart headers around it."""
        return self.max_upload_bytes + MULTIPART_OVERHEAD_BYTES

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read all settings.

        Raises
        ------
        ConfigError
            Lists every variable that cannot be read.
        """
        values: dict[str, Any] = {}
        faults = []
        variables = {f"SR_{item.name.upper()}": item for item in fields(cls)}
        for variable, item in variables.items():
            text = environ.get(variable, "")
            if not text.strip():
                continue
            try:
                values[item.name] = item.metadata["parse"](text)
            except ValueError as error:
                # A secret, or a value that may contain a password, is not shown.
                shown = repr(text) if item.repr and "@" not in text else "..."
                faults.append(f"{variable}={shown}: {error}")
        if "data_dir" in values:
            values.setdefault("cache_dir", values["data_dir"] / "cache")
            values.setdefault("state_dir", values["data_dir"] / "state")
        unknown = sorted(
            name for name in environ if name.startswith("SR_") and name not in variables
        )
        for name in unknown:  # perhaps another program's; perhaps misspelt
            logger.warning("%s is not a setting of this service", name)
        engine = values.get("engine", cls.engine)
        if values.get("dask_scheduler") and engine != "opencv":
            faults.append(f"SR_DASK_SCHEDULER: cannot be combined with SR_ENGINE={engine}")
        if values.get("device") and engine != "torch":
            faults.append("SR_DEVICE: needs SR_ENGINE=torch")
        if values.get("restore_preload") and values.get("restore_model_path", "") is None:
            faults.append("SR_RESTORE_PRELOAD: cannot be combined with SR_RESTORE_MODEL_PATH=none")
        if faults:
            raise ConfigError("\n".join(["wrong settings:", *(f"  {fault}" for fault in faults)]))
        return cls(**values)
