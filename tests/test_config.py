"""Settings: wrong values stop the start with a name and a reason; nothing is silently ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest

from magenta_bento.config import Settings, describe
from magenta_bento.errors import ConfigError

WRONG = {
    "magenta_model": ["mrt3", "DEMO", "demo,mrt2_small"],
    "max_streams": ["-1", "1025", "1.5", "many"],
    "max_queue": ["0", "10001", "x"],
    "frames_per_step": ["0", "51", "1.5"],
    "deterministic": ["maybe", "2"],
    "compute_dtype": ["float16", "int8"],
    "shutdown_grace_s": ["-1", "3601", "nan", "soon"],
    "max_duration": ["0", "-1", "3601", "nan", "inf", "2 minutes"],
    "max_stream_duration": ["0", "604801", "nan", "for ever"],
    "max_file_size_mb": ["0", "-1", "2049", "nan", "50MB"],
    "max_upload_seconds": ["0", "3601", "nan", "x"],
    "mp3_bitrate_kbps": ["128", "0", "193", "high"],
    "enable_metrics": ["maybe", "2"],
    "log_level": ["VERBOSE", "10"],
}
RIGHT: dict[str, dict[str, Any]] = {
    "magenta_model": {"auto": "auto", "demo": "demo", "mrt2_base": "mrt2_base"},
    "magenta_home": {"/models": Path("/models")},
    "magenta_revision": {"v2.0": "v2.0"},
    "max_streams": {"0": 0, "1024": 1024},
    "max_queue": {"1": 1},
    "frames_per_step": {"50": 50},
    "deterministic": {"true": True, "1": True, "no": False},
    "compute_dtype": {"bfloat16": "bfloat16"},
    "compile_cache": {"/cache": Path("/cache")},
    "shutdown_grace_s": {"0": 0.0},
    "max_duration": {"0.5": 0.5, "3600": 3600.0},
    "max_file_size_mb": {"0.1": 0.1},
    "max_upload_seconds": {"30": 30.0},
    "mp3_bitrate_kbps": {"192": 192, "320": 320},
    "max_stream_duration": {"7200": 7200.0},
    "tls_dir": {"/tls": Path("/tls")},
    "public_url": {"https://music.example": "https://music.example"},
    "enable_metrics": {"false": False, "on": True},
    "log_level": {"debug": "DEBUG", "WARNING": "WARNING"},
}
FREE_TEXT = {"magenta_home", "magenta_revision", "compile_cache", "public_url", "tls_dir"}


def test_defaults_are_the_specified_ones() -> None:
    settings = Settings.from_env({})
    assert settings.max_duration == 120
    assert settings.max_file_size_mb == 50
    assert settings.max_file_size_bytes == 50_000_000
    assert settings.enable_metrics is True
    assert settings.log_level == "INFO"
    assert settings.magenta_model == "auto"


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in WRONG for value in WRONG[field]]
)
def test_a_wrong_value_is_named_with_the_reason(field: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Settings.from_env({field.upper(): value})
    told = str(raised.value)
    assert f"{field.upper()}: " in told
    shown = value.upper() if field == "log_level" else value
    assert told.rpartition(", got ")[2].strip("'") == shown


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in RIGHT for value in RIGHT[field]]
)
def test_a_right_value_is_taken(field: str, value: str) -> None:
    assert getattr(Settings.from_env({field.upper(): value}), field) == RIGHT[field][value]


def test_every_setting_is_tested_here() -> None:
    assert set(RIGHT) == set(Settings.model_fields)
    assert set(WRONG) | FREE_TEXT == set(Settings.model_fields)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_empty_means_unset(field: str) -> None:
    assert Settings.from_env({field.upper(): ""}) == Settings.from_env({})


def test_every_wrong_value_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        Settings.from_env({"MAX_DURATION": "-1", "MAX_QUEUE": "x", "LOG_LEVEL": "INFO"})
    assert "MAX_DURATION" in str(raised.value)
    assert "MAX_QUEUE" in str(raised.value)
    assert "LOG_LEVEL" not in str(raised.value)


def test_names_are_in_capitals_only() -> None:
    assert Settings.from_env({"max_duration": "5"}) == Settings.from_env({})


def test_other_variables_are_not_ours() -> None:
    assert Settings.from_env({"PATH": "/bin", "MAX_DURATIONS": "5"}) == Settings.from_env({})


def test_settings_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        Settings.from_env({}).max_duration = 5  # type: ignore[misc]


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError):
        Settings(max_durations=5)  # type: ignore[call-arg]


def test_describe_tells_value_default_and_source() -> None:
    environ = {"MAX_DURATION": "30", "ENABLE_METRICS": "false", "LOG_LEVEL": ""}
    rows = {row.variable: row for row in describe(Settings.from_env(environ), environ)}
    assert list(rows) == [name.upper() for name in Settings.model_fields]
    duration = rows["MAX_DURATION"]
    assert (duration.value, duration.default, duration.source) == ("30", "120", "environment")
    metrics = rows["ENABLE_METRICS"]
    assert (metrics.value, metrics.default) == ("false", "true")
    assert (rows["LOG_LEVEL"].value, rows["LOG_LEVEL"].source) == ("INFO", "default")


def test_every_setting_says_what_it_means() -> None:
    for row in describe(Settings.from_env({}), {}):
        assert row.meaning.endswith("."), row.variable


def test_no_description_holds_this_machines_home() -> None:
    for row in describe(Settings.from_env({}), {}):
        assert str(Path.home()) not in row.default


@pytest.mark.parametrize("value", ["true", "1", "Yes"])
def test_keys_that_would_not_be_checked_stop_the_start(value: str) -> None:
    with pytest.raises(ConfigError, match="ENABLE_AUTH: keys are not checked yet"):
        Settings.from_env({"ENABLE_AUTH": value, "API_KEYS": "secret"})
    assert Settings.from_env({"ENABLE_AUTH": "false"}) == Settings.from_env({})
