"""Settings: wrong values stop the start with a name and a reason; nothing is silently ignored."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pydantic
import pytest
from pydantic import SecretStr

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
    "enable_auth": ["maybe", "2"],
    "rate_limit_per_minute": ["-1", "1000001", "1.5", "many", "10/minute"],
    "rate_limit_per_hour": ["-1", "1000001", "1.5", "many"],
    "rate_limit_audio_seconds_per_hour": ["-1", "10000001", "1.5", "nan"],
    "max_concurrent_per_client": ["-1", "10001", "1.5", "x"],
    "refusals_per_second": ["-1", "100001", "1.5", "x"],
    "rate_limit_on_store_failure": ["ask", "OPEN"],
    "trusted_proxies": ["localhost", "*", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.1:80"],
    "cors_origins": ["app.example", "https://app.example/", "https://app.example/page", "https://"],
    "body_timeout_s": ["0", "3601", "nan", "soon"],
    "enable_metrics": ["maybe", "2"],
    "metrics_without_key": ["maybe", "2"],
    "log_level": ["VERBOSE", "10"],
    "log_format": ["xml", "JSON"],
    "log_prompts": ["maybe", "2"],
}
RIGHT: dict[str, dict[str, Any]] = {
    "enable_auth": {"true": True, "0": False},
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
    "api_keys": {"alice:one, bob:two": SecretStr("alice:one, bob:two")},
    "api_keys_file": {"/run/secrets/keys": Path("/run/secrets/keys")},
    "rate_limit_per_minute": {"0": 0, "1000000": 1_000_000},
    "rate_limit_per_hour": {"0": 0, "5000": 5000},
    "rate_limit_audio_seconds_per_hour": {"0": 0, "600": 600},
    "max_concurrent_per_client": {"0": 0, "4": 4},
    "refusals_per_second": {"0": 0, "20": 20},
    "rate_limit_storage": {
        url: SecretStr(url)
        for url in (
            "memory://",
            "redis://:password@redis:6379/1",
            "rediss://user:password@redis",
            "redis+unix:///run/redis.sock?db=1",
        )
    },
    "rate_limit_on_store_failure": {"open": "open", "closed": "closed"},
    "trusted_proxies": {
        "10.0.0.1": (ip_network("10.0.0.1/32"),),
        " 10.0.0.0/8 ,, ::1, 2001:db8::/32 ": tuple(
            map(ip_network, ("10.0.0.0/8", "::1", "2001:db8::/32"))
        ),
    },
    "cors_origins": {
        "*": ("*",),
        "https://app.example, http://localhost:8080 ,null": (
            "https://app.example",
            "http://localhost:8080",
            "null",
        ),
        "https://App.Example": ("https://app.example",),
    },
    "body_timeout_s": {"0.5": 0.5, "120": 120.0},
    "enable_metrics": {"false": False, "on": True},
    "metrics_without_key": {"true": True},
    "log_level": {"debug": "DEBUG", "WARNING": "WARNING"},
    "log_format": {"json": "json", "text": "text"},
    "log_prompts": {"true": True, "0": False},
}
FREE_TEXT = {
    *("magenta_home", "magenta_revision", "compile_cache", "public_url", "tls_dir"),
    *("api_keys", "api_keys_file"),  # what a key may be, the ring of keys knows
}
# What is wrong of these is told without being shown: see REFUSED.
SECRET = {"rate_limit_storage"}
# What is only right beside others.
NEEDS = {"enable_auth": {"API_KEYS": "alice:one"}}


def test_defaults_are_the_specified_ones() -> None:
    settings = Settings.from_env({})
    assert settings.max_duration == 120
    assert settings.max_file_size_mb == 50
    assert settings.max_file_size_bytes == 50_000_000
    assert settings.enable_metrics is True
    assert settings.log_level == "INFO"
    assert settings.magenta_model == "auto"
    assert settings.enable_auth is False
    assert (settings.rate_limit_per_minute, settings.rate_limit_per_hour) == (10, 100)
    assert settings.rate_limit_audio_seconds_per_hour == 0
    assert settings.rate_limit_storage.get_secret_value() == "memory://"
    assert settings.rate_limit_on_store_failure == "open"
    assert settings.trusted_proxies == ()
    assert settings.cors_origins == ()
    assert settings.log_prompts is False


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
    settings = Settings.from_env({field.upper(): value, **NEEDS.get(field, {})})
    assert getattr(settings, field) == RIGHT[field][value]


def test_every_setting_is_tested_here() -> None:
    assert set(RIGHT) == set(Settings.model_fields)
    assert set(WRONG) | FREE_TEXT | SECRET == set(Settings.model_fields)


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
def test_asking_for_keys_needs_some(value: str) -> None:
    for none in ({}, {"API_KEYS": ""}, {"API_KEYS": "", "API_KEYS_FILE": ""}):
        with pytest.raises(ConfigError, match="ENABLE_AUTH: needs API_KEYS or API_KEYS_FILE"):
            Settings.from_env({"ENABLE_AUTH": value, **none})
    for some in ({"API_KEYS": "alice:one"}, {"API_KEYS_FILE": "/run/secrets/keys"}):
        assert Settings.from_env({"ENABLE_AUTH": value, **some}).enable_auth


def test_keys_may_be_there_before_they_are_asked_for() -> None:
    assert not Settings.from_env({"API_KEYS": "alice:one"}).enable_auth


# Each holds what must not be shown.
SECRETS = {
    "API_KEYS": ["alice:not-to-be-shown", "not-to-be-shown"],
    "RATE_LIMIT_STORAGE": ["redis://:not-to-be-shown@redis:6379/1"],
}
REFUSED = {
    "RATE_LIMIT_STORAGE": [
        *("not-to-be-shown", "http://:not-to-be-shown@redis", "REDIS://:not-to-be-shown@redis"),
        *("memory://not-to-be-shown", "redis+sentinel://:not-to-be-shown@redis"),
    ],
}


@pytest.mark.parametrize(
    ("variable", "value"), [(name, value) for name in SECRETS for value in SECRETS[name]]
)
def test_a_secret_is_never_shown(variable: str, value: str) -> None:
    environ = {variable: value, "ENABLE_AUTH": "true", "API_KEYS": "alice:not-to-be-shown"}
    environ[variable] = value
    settings = Settings.from_env(environ)
    rows = describe(settings, environ)
    (row,) = (row for row in rows if row.variable == variable)
    assert row.value == "**********"
    assert row.source == "environment"
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(rows)):
        assert "not-to-be-shown" not in shown
    with pytest.raises(ConfigError) as raised:
        Settings.from_env({**environ, "MAX_QUEUE": "x"})
    assert "not-to-be-shown" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value"), [(name, value) for name in REFUSED for value in REFUSED[name]]
)
def test_a_secret_that_is_refused_is_not_shown_either(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Settings.from_env({variable: value})
    assert str(raised.value).startswith(f"wrong settings: {variable}: must be ")
    assert "not-to-be-shown" not in str(raised.value)
    assert raised.value.__suppress_context__  # a traceback shows no more


def test_what_is_no_secret_is_described_as_it_is() -> None:
    environ = {"TRUSTED_PROXIES": "10.0.0.0/8, ::1", "CORS_ORIGINS": "https://app.example"}
    rows = {row.variable: row for row in describe(Settings.from_env(environ), environ)}
    assert rows["TRUSTED_PROXIES"].value == "10.0.0.0/8, ::1/128"
    assert rows["CORS_ORIGINS"].value == "https://app.example"
    assert rows["RATE_LIMIT_STORAGE"].value == "memory://"
    assert (rows["API_KEYS"].value, rows["API_KEYS_FILE"].value) == ("", "")
