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
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from magenta_bento.errors import ConfigError, shorten

ModelChoice = Literal["auto", "mrt2_base", "mrt2_small", "demo"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]
_AUTH = "ENABLE_AUTH"  # of the API that this one replaces; silence about it would be dangerous
Mp3Bitrate = Annotated[Literal[192, 224, 256, 320], BeforeValidator(int)]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class Settings(BaseModel):
    """What an operator can choose. Every field says what it means and in which unit."""

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
    enable_metrics: bool = Field(True, description="Serve Prometheus metrics at /metrics.")
    log_level: LogLevel = Field("INFO", description="Least severe log lines that are written.")

    @property
    def max_file_size_bytes(self) -> int:
        return int(self.max_file_size_mb * 1_000_000)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Reads the settings.

        A variable that is set but empty counts as not set, as compose files leave them.

        Raises:
          ConfigError: A value is wrong; every wrong one is named.
        """
        if environ.get(_AUTH, "").lower() in ("1", "true", "yes", "on"):
            raise ConfigError(
                f"{_AUTH}: keys are not checked yet, and this server would be open to everybody;"
                " put it behind a proxy that checks them, and leave this unset"
            )
        given = {name: environ[name.upper()] for name in _given(environ)}
        if level := given.get("log_level"):
            given["log_level"] = level.upper()
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            reasons = "; ".join(
                f"{str(e['loc'][0]).upper()}: {e['msg']}, got {shorten(e['input'])}"
                for e in error.errors()
            )
            raise ConfigError(f"wrong settings: {reasons}") from None


@dataclass(frozen=True)
class Described:
    """One setting as ``magenta-bento settings`` prints it."""

    variable: str
    value: str
    default: str
    source: Literal["environment", "default"]
    meaning: str


def describe(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[Described]:
    """Every setting with its value, default, source and meaning, in declaration order."""
    given = _given(environ)
    return [
        Described(
            variable=name.upper(),
            value=_shown(getattr(settings, name)),
            default=_shown(field.default),
            source="environment" if name in given else "default",
            meaning=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _given(environ: Mapping[str, str]) -> set[str]:
    return {name for name in Settings.model_fields if environ.get(name.upper(), "") != ""}


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Path):
        home = str(Path.home())
        return str(value).replace(home, "~", 1) if str(value).startswith(home) else str(value)
    return str(value)
