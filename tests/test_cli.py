"""The command line: what it prints, what it runs, and how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hub as stand_in
import pytest
from click.testing import CliRunner, Result

from magenta_bento import __version__
from magenta_bento.cli import main
from magenta_bento.config import Settings

ROOT = Path(__file__).parent.parent
VARIABLES = [name.upper() for name in Settings.model_fields]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MAGENTA_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # so that `verify` leaves nothing behind


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that would have replaced this process."""
    lines: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _file, arguments: lines.append(arguments))
    return lines


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_settings_shows_every_variable_and_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_DURATION", "30")
    shown = run("settings")
    assert shown.exit_code == 0
    rows = {line.split()[0]: line for line in shown.output.splitlines()}
    assert list(rows) == ["VARIABLE", *VARIABLES]
    assert rows["MAX_DURATION"].split()[1:4] == ["30", "environment", "120"]
    assert rows["LOG_LEVEL"].split()[1:4] == ["INFO", "default", "INFO"]


def test_settings_markdown_is_the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_DURATION", "not looked at")
    lines = run("settings", "--markdown").output.splitlines()
    assert lines[:2] == ["| Variable | Default | Meaning |", "|---|---|---|"]
    assert [line.split("`")[1] for line in lines[2:]] == VARIABLES
    assert "| `MAX_DURATION` | `120` | Longest generation of one request, seconds. |" in lines
    assert str(Path.home()) not in "\n".join(lines)


def test_wrong_settings_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_DURATION", "-1")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    for command in (["settings"], ["serve"], ["models", "list"]):
        shown = run(*command)
        assert shown.exit_code == 1
        assert len(shown.stderr.splitlines()) == 1
        assert "MAX_DURATION" in shown.stderr
        assert "LOG_LEVEL" in shown.stderr


def test_list_shows_what_is_missing_and_what_is_served(tmp_path: Path) -> None:
    stand_in.lay(tmp_path / "magenta-rt-v2", stand_in.repository())
    (tmp_path / "magenta-rt-v2/checkpoints/mrt2_base.safetensors").unlink()
    shown = run("models", "list")
    assert shown.exit_code == 0
    _, base, small, demo, *_ = shown.output.splitlines()
    assert base.endswith("missing: mrt2_base.safetensors")
    assert small.startswith("*")
    assert small.endswith("complete")
    assert demo.endswith("complete")
    assert not demo.startswith("*")


def test_list_fails_when_the_named_model_cant_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGENTA_MODEL", "mrt2_small")
    shown = run("models", "list")
    assert shown.exit_code == 1
    assert "mapper.tflite" in shown.stdout
    assert shown.stderr.endswith("Run: magenta-bento models download mrt2_small\n")


def test_verify_the_demo() -> None:
    shown = run("models", "verify", "demo")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == "demo is as it should be: 4,827,094 parameters\n"


def test_verify_lists_problems_and_the_remedy(tmp_path: Path) -> None:
    shown = run("models", "verify", "mrt2_small")
    assert shown.exit_code == 1
    assert len(shown.stdout.splitlines()) == 7
    assert all(line.endswith(": missing") for line in shown.stdout.splitlines())
    assert shown.stderr == (
        "Error: mrt2_small has 7 problems. Run: magenta-bento models download mrt2_small\n"
    )


def test_serve_chooses_first_and_becomes_bentoml(executed: list[list[str]]) -> None:
    shown = run("serve", "--port", "4000", "--host", "127.0.0.1")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("serving demo from ")
    (line,) = executed
    assert line[:5] == [sys.executable, "-m", "bentoml", "serve", "service:MagentaBento"]
    assert line[5:] == ["--port", "4000", "--host", "127.0.0.1"]


def test_serve_leaves_the_host_to_bentoml(executed: list[list[str]]) -> None:
    run("serve")
    assert executed[0][-2:] == ["--port", "3000"]


def test_serve_stops_when_the_named_model_isnt_there(
    executed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGENTA_MODEL", "mrt2_base")
    shown = run("serve")
    assert shown.exit_code == 1
    assert shown.stdout == ""
    assert len(shown.stderr.splitlines()) == 1
    assert shown.stderr.endswith("Run: magenta-bento models download mrt2_base\n")
    assert executed == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["models", "download"],
        ["models", "download", "demo"],
        ["models", "verify", "mrt3"],
        ["serve", "--port", "0"],
        ["serve", "--port", "http"],
    ],
)
def test_a_command_line_that_makes_no_sense(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_version() -> None:
    assert __version__ in run("--version").output


def test_serve_tells_of_a_file_without_keys_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    monkeypatch.setenv("ENABLE_AUTH", "true")
    monkeypatch.setenv("API_KEYS_FILE", str(tmp_path / "keys"))
    shown = run("serve")
    assert shown.exit_code == 1
    assert shown.output == "Error: ENABLE_AUTH: API_KEYS and API_KEYS_FILE hold no key\n"


@pytest.mark.parametrize("command", [["settings"], ["models", "list"], ["--help"]])
def test_quick_commands_import_nothing_slow(command: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from magenta_bento.cli import main\n"
        f"main({command!r}, standalone_mode=False)\n"
        "sys.exit(bool({'jax', 'magenta_rt', 'bentoml', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "BENTOML_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
