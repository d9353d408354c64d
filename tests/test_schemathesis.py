"""The OpenAPI document is exact: thousands of requests that it allows or forbids, all checks on.

Schemathesis makes them from the document, sends them to a real server and holds each answer to
the document. ``schemathesis.toml`` says how many and which statuses count, ``schemathesis_hooks``
what no document can say. No check is switched off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from serving import Server, serving

KEY = "a-key-for-schemathesis-of-enough-length"
LEAST_CASES = 2_000
LIMIT_S = 900
HERE = Path(__file__).parent
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")

pytestmark = [pytest.mark.long, pytest.mark.timeout(LIMIT_S + 300)]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for a key, makes short music and counts nothing."""
    with serving(
        tmp_path_factory.mktemp("guarded"),
        fake_model=True,
        MAGENTA_MODEL="demo",
        ENABLE_AUTH="true",
        API_KEYS=f"fuzz:{KEY}",
        MAX_STREAMS="4",
        MAX_DURATION="0.12",
        MAX_STREAM_DURATION="0.12",
        MAX_CONCURRENT_PER_CLIENT="0",
        RATE_LIMIT_PER_MINUTE="0",
        RATE_LIMIT_PER_HOUR="0",
        REFUSALS_PER_SECOND="0",
    ) as running:
        yield running


@dataclass
class Run:
    """What Schemathesis did.

    Attributes:
      output: As people read it.
      report: Its sums.
      answers: How many had a status, by (method, path, media type of the body, status).
    """

    output: str
    report: dict[str, Any]
    answers: Counter[tuple[str, str, str | None, int]]


@pytest.fixture(scope="module")
def run(guarded: Server, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("schemathesis")
    report, events = folder / "report.json", folder / "events.ndjson"
    command = [
        *(str(SCHEMATHESIS), "--config-file", str(HERE / "schemathesis.toml")),
        *("run", f"{guarded.url}/docs.json", "--header", f"X-API-Key: {KEY}"),
        *("--checks", "all", "--generation-deterministic", "--no-color"),
        *("--report-json-path", str(report), "--report-ndjson-path", str(events)),
    ]
    ran = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(HERE),
            "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        },
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT_S,
        check=False,
    )
    assert report.exists(), ran.stdout + ran.stderr
    return Run(ran.stdout, json.loads(report.read_text()), answers_in(events))


def answers_in(events: Path) -> Counter[tuple[str, str, str | None, int]]:
    found: Counter[tuple[str, str, str | None, int]] = Counter()
    with events.open() as lines:
        for line in lines:
            recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
            for name, made in recorder.get("interactions", {}).items():
                case = recorder["cases"][name]["value"]
                status = made["response"]["status_code"]
                found[case["method"], case["path"], case.get("media_type"), status] += 1
    return found


def test_every_answer_is_as_the_document_says(run: Run) -> None:
    cases = run.report["test_cases"]
    failed = {name: cases[name] for name in ("with_failures", "errored")}
    assert failed == {"with_failures": 0, "errored": 0}, run.output
    assert run.report["errors"] == [], run.output
    assert {name: each for name, each in run.report["warnings"].items() if each} == {}
    assert run.report["exit_code"] == 0, run.output


def test_it_was_asked_enough(run: Run) -> None:
    assert run.report["test_cases"]["generated"] >= LEAST_CASES
    assert run.report["operations"]["tested"] == run.report["operations"]["total"]
    phases = {name: each["status"] for name, each in run.report["phases"].items()}
    assert phases == dict.fromkeys(("examples", "coverage", "fuzzing", "stateful"), "success")


def test_each_way_to_send_a_request_was_served_and_refused(guarded: Server, run: Run) -> None:
    document = requests.get(f"{guarded.url}/docs.json", timeout=30).json()
    for path, item in document["paths"].items():
        for method, told in item.items():
            for media_type in told.get("requestBody", {}).get("content", {None: None}):
                sent = (method.upper(), path, media_type)
                assert run.answers[*sent, 200], sent
                if path.startswith(("/generate", "/stream", "/embed", "/prompts")):
                    assert run.answers[*sent, 400], sent


def test_each_route_was_asked_without_a_key(guarded: Server, run: Run) -> None:
    document = requests.get(f"{guarded.url}/docs.json", timeout=30).json()
    refused = {(method, path) for method, path, _, status in run.answers if status == 401}
    assert refused == {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method, told in item.items()
        if told.get("security") != []
    }


def test_nothing_is_left_of_it(guarded: Server, run: Run) -> None:
    deadline = time.monotonic() + 10
    while streams_of(guarded) != (0, 0) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert streams_of(guarded) == (0, 0)
    assert [path for path in guarded.temp.rglob("*") if not path.name.startswith("bentoml-")] == []
    log = guarded.log.read_text(errors="replace")
    assert "Traceback" not in log
    assert KEY not in log


def streams_of(server: Server) -> tuple[int, int]:
    """How many play and how many wait."""
    streams = requests.get(f"{server.url}/health", timeout=30).json()["streams"]
    return streams["active"], streams["waiting"]
