"""A real Prometheus that scrapes one server, asked as Grafana asks it.

Invariant: it keeps its data in the folder it is given, and is gone when the context is left.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml
from programs import program
from serving import free_port

PROGRAM = "prometheus"
PROMTOOL = "promtool"
JOB = "magenta-bento"
SCRAPE_S = 1
START_S = 30
STOP_S = 10
ASK_S = 10


def require() -> None:
    """Skips, or fails, where Prometheus is not installed."""
    for name in (PROGRAM, PROMTOOL):
        program(name)


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus.

    Attributes:
      url: Without a slash at its end.
      target: The instance that it scrapes, as ``host:port``.
      began: When it started, Unix time.
    """

    url: str
    target: str
    began: float

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What an instant query gives now."""
        found: list[dict[str, Any]] = self._get("query", query=expr)["result"]
        return found

    def query_range(self, expr: str) -> list[dict[str, Any]]:
        """What a graph over the whole time would show, one point a scrape."""
        times = {"start": self.began, "end": time.time(), "step": SCRAPE_S}
        found: list[dict[str, Any]] = self._get("query_range", query=expr, **times)["result"]
        return found

    def label_values(self, selector: str, label: str) -> list[str]:
        values: list[str] = self._get(f"label/{label}/values", **{"match[]": selector})
        return values

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its ``health`` and ``lastError``."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def wait_until(self, expr: str, seconds: float) -> None:
        """Waits until an instant query gives something."""
        deadline = time.monotonic() + seconds
        while not self.query(expr):
            assert time.monotonic() < deadline, f"nothing for {expr} within {seconds:g} s"
            time.sleep(SCRAPE_S / 4)

    def _get(self, what: str, **parameters: Any) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{what}", params=parameters, timeout=ASK_S).json()
        assert answer["status"] == "success", f"{parameters}: {answer}"
        return answer["data"]


@contextmanager
def scraping(folder: Path, url: str, rules: Path) -> Iterator[Prometheus]:
    """Starts a Prometheus that scrapes a server every second, and ends it afterwards.

    Args:
      folder: For its configuration and data.
      url: The server's, without a path.
      rules: A file of alert rules.
    """
    target = url.removeprefix("http://")
    config = folder / "prometheus.yml"
    settings = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [target]}]}],
    }
    config.write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    command = [
        PROGRAM,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        running = Prometheus(f"http://{address}", target, time.time())
        _wait_until_ready(running, process, log)
        running.wait_until("up == 1", START_S)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(running: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{running.url}/-/ready", timeout=ASK_S).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"Prometheus did not start:\n{log.read_text(errors='replace')}")
