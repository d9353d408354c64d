"""Settings: read once from the environment into a frozen object.

A setting is a field of :class:`Settings`; its environment variable is the field's name in
capitals. README's table, ``magenta-bento settings`` and the code all come from here.

Invariant: a process that runs has only valid settings; a wrong value is a
:class:`~magenta_bento.errors.ConfigError` that names the variable, the reason and the value.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from magenta_bento.errors import ConfigError, shorten

ModelChoice = Literal["auto", "mrt2_base", "mrt2_small", "demo"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]
Mp3Bitrate = Annotated[Literal[192, 224, 256, 320], BeforeValidator(int)]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
LogFormat = Literal["text", "json"]
OnStoreFailure = Literal["open", "closed"]

IN_MEMORY = "memory://"
_REDIS = ("redis://", "rediss://", "redis+unix://")


def _store_url(url: SecretStr) -> SecretStr:
    if url.get_secret_value() != IN_MEMORY and not url.get_secret_value().startswith(_REDIS):
        raise ValueError(f"must be {IN_MEMORY} or begin with {' or '.join(_REDIS)}")
    return url


def _split(value: Any) -> Any:
    """The parts of a comma-separated list, which is how an environment variable holds one."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _network(value: Any) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    return ip_network(value)


def _cors_origin(value: str) -> str:
    parts = urlsplit(value)
    is_origin = parts.scheme and parts.netloc and value == f"{parts.scheme}://{parts.netloc}"
    if value not in ("*", "null") and not is_origin:
        raise ValueError("must be *, null or an origin such as https://app.example")
    return value.lower()


Store = Annotated[SecretStr, AfterValidator(_store_url)]
Networks = Annotated[
    tuple[Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)], ...],
    BeforeValidator(_split),
]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_cors_origin)], ...], BeforeValidator(_split)
]


class Settings(BaseModel):
    """The settings of a server. Each field's description says what it means and in which unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    magenta_model: ModelChoice = Field(
        "auto",
        description="The model to serve; auto takes the best one whose files are complete.",
    )
    magenta_home: Path = Field(
        Path.home() / "Documents" / "Magenta",
        description="Where models live, in the layout of upstream's mrt command.",
    )
    magenta_revision: str = Field(
        "main",
        min_length=1,
        description="The revision (commit, tag or branch) of the model hub to download from.",
    )
    max_streams: int = Field(
        0,
        ge=0,
        le=1024,
        description="The most streams that play at once; 0 to measure what the device can do.",
    )
    max_queue: int = Field(
        64, ge=1, le=10_000, description="The most requests that wait for a slot; then 503."
    )
    frames_per_step: int = Field(
        5,
        ge=1,
        le=50,
        description="The most 40 ms frames of one dispatch; more is a little faster and makes"
        " joining, leaving and cancelling wait longer.",
    )
    deterministic: bool = Field(
        False,
        description="Use one batch size only, so that the same seed gives the same bytes under"
        " any load; a lone stream is then slower.",
    )
    compute_dtype: ComputeDtype = Field(
        "auto",
        description="What the language model computes in; auto is bfloat16 on a GPU, float32 on"
        " a CPU.",
    )
    compile_cache: Path = Field(
        Path.home() / ".cache" / "magenta-bento" / "xla",
        description="Where compiled programs are kept from one start to the next.",
    )
    shutdown_grace_s: float = Field(
        20.0,
        ge=0,
        le=3600,
        description="How long running streams may go on after SIGTERM, seconds.",
    )
    max_duration: float = Field(
        120.0, gt=0, le=3600, description="Longest generation of one request, seconds."
    )
    max_stream_duration: float = Field(
        3600.0,
        gt=0,
        le=7 * 24 * 3600,
        description="Longest stream that is asked for by its duration, seconds.",
    )
    max_file_size_mb: float = Field(
        50.0, gt=0, le=2048, description="Largest upload, in MB of 1,000,000 bytes."
    )
    max_upload_seconds: float = Field(
        600.0,
        gt=0,
        le=3600,
        description="Longest audio of an upload that is decoded, seconds.",
    )
    mp3_bitrate_kbps: Mp3Bitrate = Field(
        256, description="Constant bit rate of MP3 answers, kbit/s."
    )
    tls_dir: Path = Field(
        Path.home() / ".cache" / "magenta-bento" / "tls",
        description="Where the certificate of `serve --tls` lies.",
    )
    public_url: str = Field(
        "http://localhost:3000",
        description="Where people open the server; only shown, at the start.",
    )
    enable_auth: bool = Field(
        False, description="Ask for an API key; then API_KEYS or API_KEYS_FILE has to hold some."
    )
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="The keys, separated by commas: `key` or `name:key`; in place of a key its"
        " digest, `sha256:…`.",
    )
    api_keys_file: Path | None = Field(
        None, description="A file of keys, one a line; read again when it changes."
    )
    rate_limit_per_minute: int = Field(
        10, ge=0, le=1_000_000, description="Requests of one client in a minute; 0 for any number."
    )
    rate_limit_per_hour: int = Field(
        100, ge=0, le=1_000_000, description="Requests of one client in an hour; 0 for any number."
    )
    rate_limit_audio_seconds_per_hour: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Seconds of music for one client in an hour; 0 for any number.",
    )
    max_concurrent_per_client: int = Field(
        16,
        ge=0,
        le=10_000,
        description="Requests and live connections of one client at once; 0 for any number.",
    )
    refusals_per_second: int = Field(
        100,
        ge=0,
        le=100_000,
        description="How fast requests are refused: the next ones wait up to 1 s; 0 for at once.",
    )
    rate_limit_storage: Store = Field(
        SecretStr(IN_MEMORY),
        description="Where limits are counted: in this process, or at a `redis://…` that several"
        " servers share.",
    )
    rate_limit_on_store_failure: OnStoreFailure = Field(
        "open",
        description="While that Redis does not answer: `open` serves without limits, `closed`"
        " refuses with 503.",
    )
    trusted_proxies: Networks = Field(
        (),
        description="Addresses or networks of proxies, separated by commas, whose X-Forwarded-For"
        " tells the client's address.",
    )
    cors_origins: Origins = Field(
        (),
        description="Origins, separated by commas, whose pages may call this server; `*` for all.",
    )
    body_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="How long a body may take to arrive, seconds; each 8 kB give another second.",
    )
    enable_metrics: bool = Field(True, description="Serve Prometheus metrics at /metrics.")
    metrics_without_key: bool = Field(
        False, description="Serve /metrics without a key where others need one."
    )
    log_level: LogLevel = Field("INFO", description="Least severe log lines that are written.")
    log_format: LogFormat = Field("text", description="`text`, or `json`: one object a line.")
    log_prompts: bool = Field(False, description="Write prompts to the log and to traces.")

    @property
    def max_file_size_bytes(self) -> int:
        """``max_file_size_mb`` in bytes."""
        return int(self.max_file_size_mb * 1_000_000)

    @model_validator(mode="after")
    def _auth_has_keys(self) -> Settings:
        if self.enable_auth and not self.api_keys.get_secret_value() and not self.api_keys_file:
            raise ValueError("ENABLE_AUTH: needs API_KEYS or API_KEYS_FILE")
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Reads the settings from environment variables.

        A variable that is set to an empty text counts as not set: compose files pass variables
        that their user left out in this way.

        Raises:
          ConfigError: A value is wrong; the message names every wrong one.
        """
        values = {name: environ[name.upper()] for name in _names_set_in(environ)}
        if level := values.get("log_level"):
            values["log_level"] = level.upper()
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            reasons = "; ".join(map(_reason, error.errors()))
            raise ConfigError(f"wrong settings: {reasons}") from None


@dataclass(frozen=True)
class SettingDescription:
    """One setting as ``magenta-bento settings`` prints it.

    Attributes:
      variable: Its environment variable.
      value: Its value now; a secret is masked.
      default: Its value when the variable is not set.
      source: Where the value comes from.
      meaning: What it means, and in which unit.
    """

    variable: str
    value: str
    default: str
    source: Literal["environment", "default"]
    meaning: str


def describe(
    settings: Settings, environ: Mapping[str, str] = os.environ
) -> list[SettingDescription]:
    """Every setting with its value, default, source and meaning, in declaration order."""
    names_set = _names_set_in(environ)
    return [
        SettingDescription(
            variable=name.upper(),
            value=_formatted(getattr(settings, name)),
            default=_formatted(field.default),
            source="environment" if name in names_set else "default",
            meaning=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _reason(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    got = "" if _is_secret(name) else f", got {shorten(error['input'])}"
    return f"{name.upper()}: {message}{got}"


def _is_secret(name: str) -> bool:
    return Settings.model_fields[name].annotation is SecretStr


def _names_set_in(environ: Mapping[str, str]) -> set[str]:
    """The names of the settings whose variables hold something."""
    return {name for name in Settings.model_fields if environ.get(name.upper(), "") != ""}


def _formatted(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, SecretStr):
        return value.get_secret_value() if value.get_secret_value() == IN_MEMORY else str(value)
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Path):
        home = str(Path.home())
        return str(value).replace(home, "~", 1) if str(value).startswith(home) else str(value)
    return str(value)
