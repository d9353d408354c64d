"""deploy/: the dashboard and the alerts ask for what a real server tells a real Prometheus."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import math
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
import soundfile
import websockets
import yaml
from audio_files import tone
from prometheus import JOB, PROMTOOL, SCRAPE_S, Prometheus, require, scraping
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from serving import REPOSITORY, Server, serving

from magenta_bento.audio.formats import FRAME_S
from magenta_bento.config import Settings
from magenta_bento.metrics import STEP_BUCKETS_S, Metrics

DEPLOY = REPOSITORY / "deploy"
README = DEPLOY / "README.md"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
ALERTS_TEST = DEPLOY / "prometheus" / "alerts_test.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "magenta-bento.json").read_text())
VARIABLES = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERT_RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
KEYS = {"radio": "a-key-for-the-radio-in-tests", "greedy": "a-key-for-the-greedy-in-tests"}
SETTINGS = {
    "ENABLE_AUTH": "true",
    "API_KEYS": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
    "METRICS_WITHOUT_KEY": "true",
    "MAX_STREAMS": "1",
    "MAX_QUEUE": "1",
    "MAX_CONCURRENT_PER_CLIENT": "4",
}
RUNBOOK = dict(
    re.findall(r"^### (\w+)\n(.*?)(?=^###|\Z)", README.read_text(), re.MULTILINE | re.DOTALL)
)
ROUNDS = 2  # a rate needs two samples, of which the first one does not count
FLOOD = 8  # requests at once of one client: more than play and wait
LIMIT_S = 60

# What a healthy server on a CPU has nothing to tell about.
MAY_BE_EMPTY = {
    "magenta_bento_device_memory_bytes": "a CPU does not report its memory",
    "ALERTS": "nothing is wrong",
}


@dataclass(frozen=True)
class Query:
    """One query of the dashboard.

    Attributes:
      where: Its panel and letter.
      expr: PromQL, with Grafana's variables in it.
      instant: Asked for now alone, rather than over the time shown.
    """

    where: str
    expr: str
    instant: bool

    def __str__(self) -> str:
        return self.where


QUERIES = [
    Query(f"{panel['title']} {target['refId']}", target["expr"], target.get("instant", False))
    for panel in PANELS
    for target in panel["targets"]
]
QUERIES += [
    Query(f"annotation {a['name']}", a["expr"], False) for a in DASHBOARD["annotations"]["list"]
]


def metrics_in(expr: str) -> set[str]:
    return set(re.findall(r"\b(magenta_bento_\w+|ALERTS|up)\b", expr))


def declared() -> dict[str, set[str]]:
    """Every metric of the product, and the names of its samples."""
    registry = CollectorRegistry()
    Metrics(registry)
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        family.name: {family.name + suffix for suffix in suffixes[family.type]}
        for family in registry.collect()
    }


def test_rules_and_panels_take_a_frame_for_as_long_as_the_server_does() -> None:
    """PromQL imports nothing: a frame's seconds stand in it as a number."""
    expressions = [rule["expr"] for rule in ALERT_RULES] + [query.expr for query in QUERIES]
    found = [
        seconds
        for expr in expressions
        for seconds in re.findall(r"step_frame_seconds[^>]*> ([\d.]+)", expr)
        + re.findall(r"frames_total.*\* ([\d.]+)", expr)
    ]
    panels = [panel for panel in PANELS if "step_frame_seconds" in str(panel["targets"])]
    found += [
        step["value"]
        for panel in panels
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        if step["value"] is not None
    ]
    assert len(found) == 5
    assert {float(seconds) for seconds in found} == {FRAME_S}
    assert FRAME_S in STEP_BUCKETS_S


# The server at work.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), fake_model=True, **SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(
    needs_prometheus: None, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that has seen the server at work."""
    with scraping(tmp_path_factory.mktemp("prometheus"), server.url, ALERTS) as running:
        for _ in range(ROUNDS):
            work(server)
            time.sleep(2 * SCRAPE_S)
        yield running


@pytest.fixture(scope="module")
def needs_prometheus() -> None:
    require()


def work(server: Server) -> None:
    """Something of everything that is counted."""
    radio = {"X-API-Key": KEYS["radio"]}
    wav = io.BytesIO()
    soundfile.write(wav, tone(0.5), 48_000, format="WAV")
    asked = [
        ask(server, "/generate/text", radio, data={"prompt": "funk", "duration": 1}),
        ask(server, "/stream/text", radio, data={"prompt": "funk", "duration": 1}),
        ask(server, "/embed/audio", radio, files={"audio_file": wav.getvalue()}),
        ask(server, "/generate/text", radio, data={"prompt": "funk", "duration": -1}),
        ask(server, "/generate/text", {"X-API-Key": "of nobody"}, data={"prompt": "funk"}),
    ]
    assert asked == [200, 200, 200, 400, 401]
    asyncio.run(play_live(server))
    flooded = flood(server)
    assert {200, 503} <= set(flooded), flooded
    assert beside_open_requests(server) == 429


def ask(server: Server, route: str, headers: dict[str, str], **how: Any) -> int:
    url = f"{server.url}{route}"
    return requests.post(url, headers=headers, timeout=LIMIT_S, **how).status_code


async def play_live(server: Server) -> None:
    url = f"{server.url.replace('http', 'ws', 1)}/ws/jam"
    async with websockets.connect(url, additional_headers={"X-API-Key": KEYS["radio"]}) as jam:
        await jam.send(json.dumps({"type": "start", "prompts": [{"text": "funk"}]}))
        async with asyncio.timeout(LIMIT_S):
            async for message in jam:
                if isinstance(message, bytes):
                    return


def flood(server: Server) -> list[int]:
    """The statuses that one client gets for many requests at once."""
    statuses: list[int] = []
    together = threading.Barrier(FLOOD)
    greedy = {"X-API-Key": KEYS["greedy"]}

    def one() -> None:
        together.wait(LIMIT_S)
        body = {"prompt": "all of it", "duration": 20}
        statuses.append(ask(server, "/generate/text", greedy, data=body))

    threads = [threading.Thread(target=one) for _ in range(FLOOD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def beside_open_requests(server: Server) -> int:
    """The status that a client gets which has begun as many requests as it may have."""
    address = urlsplit(server.url)
    head = f"POST /embed/text HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS['greedy']}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 20\r\n\r\n"  # and nothing follows
    deadline = time.monotonic() + LIMIT_S
    with ExitStack() as begun:
        for _ in range(int(SETTINGS["MAX_CONCURRENT_PER_CLIENT"])):
            place = (address.hostname or "", address.port or 0)
            connection = begun.enter_context(socket.create_connection(place))
            connection.sendall(head.encode())
        while True:  # until the server has read all of their heads
            greedy = {"X-API-Key": KEYS["greedy"]}
            status = ask(server, "/embed/text", greedy, data={"prompt": "funk"})
            if status != 200 or time.monotonic() > deadline:
                return status


def as_grafana(expr: str, target: str) -> str:
    """A query with the variables that Grafana fills in: job and instance chosen, the rest All."""
    values = {
        "__rate_interval": f"{4 * SCRAPE_S}s",
        "__interval": f"{SCRAPE_S}s",
        "__range": "5m",
        "job": JOB,
        "instance": re.escape(target).replace("\\", "\\\\"),
        "route": VARIABLES["route"]["allValue"],
        "key": VARIABLES["key"]["allValue"],
    }
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], expr)


def points(series: list[dict[str, Any]]) -> list[float]:
    """All values of an answer that are numbers."""
    pairs = itertools.chain.from_iterable(s.get("values") or [s["value"]] for s in series)
    return [number for _, text in pairs if not math.isnan(number := float(text))]


# The dashboard, against that.


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_query_of_the_dashboard_returns_data(query: Query, prometheus: Prometheus) -> None:
    expr = as_grafana(query.expr, prometheus.target)
    answer = prometheus.query(expr) if query.instant else prometheus.query_range(expr)
    if metrics_in(query.expr).isdisjoint(MAY_BE_EMPTY):
        assert points(answer), f"nothing for {expr}"


@pytest.mark.parametrize("name", [n for n, v in VARIABLES.items() if v["type"] == "query"])
def test_a_variable_of_the_dashboard_offers_something(name: str, prometheus: Prometheus) -> None:
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", VARIABLES[name]["query"])
    assert found
    selector, label = as_grafana(found[1], prometheus.target), found[2]
    expected = {
        "job": {JOB},
        "instance": {prometheus.target},
        "route": {"/generate/text", "/stream/text", "/embed/audio", "/ws/jam"},
        "key": set(KEYS),
    }
    assert expected[name] <= set(prometheus.label_values(selector, label))


def test_every_metric_that_is_asked_for_is_scraped(server: Server, prometheus: Prometheus) -> None:
    text = requests.get(f"{server.url}/metrics", timeout=LIMIT_S).text
    scraped = {s.name for family in text_string_to_metric_families(text) for s in family.samples}
    asked = [query.expr for query in QUERIES] + [rule["expr"] for rule in ALERT_RULES]
    wanted = set().union(*map(metrics_in, asked)) - {"up"} - MAY_BE_EMPTY.keys()
    assert wanted <= scraped


def test_every_rule_evaluates_and_a_healthy_server_wakes_nobody(prometheus: Prometheus) -> None:
    rules = prometheus.rules()
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in ALERT_RULES}
    assert [(r["name"], r.get("lastError")) for r in rules if r["health"] != "ok"] == []
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_a_restarted_worker_is_seen_and_its_predecessor_forgotten(
    server: Server, prometheus: Prometheus
) -> None:
    """The last one here that asks this Prometheus: the alert goes on firing."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    worker = next(c for c in children if "_bentoml_impl.worker" in " ".join(c.cmdline()))
    worker.kill()
    worker.wait(LIMIT_S)
    prometheus.wait_until("magenta_bento_ready == 0", LIMIT_S)
    server.wait_until_healthy()
    prometheus.wait_until("magenta_bento_ready == 1", LIMIT_S)
    prometheus.wait_until('ALERTS{alertname="MagentaBentoRestarted"}', LIMIT_S)
    assert points(prometheus.query("magenta_bento_slots")) == [float(SETTINGS["MAX_STREAMS"])]


# What needs no server.


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_explains_itself(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["legendFormat"] or panel["type"] == "table"
        selectors = re.findall(r"magenta_bento_\w+\{([^}]*)\}", target["expr"])
        assert len(selectors) == target["expr"].count("magenta_bento_")
        for selector in selectors:
            assert selector.startswith('job=~"$job", instance=~"$instance"')
        windows = set(re.findall(r"\[(.*?)\]", target["expr"]))
        assert windows <= {"$__range" if target.get("instant") else "$__rate_interval"}


def test_panels_have_ids_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = set(
            itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
        )
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_metric_is_on_the_dashboard() -> None:
    """A metric that nobody looks at need not be counted."""
    shown = set().union(*(metrics_in(query.expr) for query in QUERIES))
    assert [name for name, samples in declared().items() if not samples & shown] == []


def test_nothing_is_asked_for_that_is_not_declared() -> None:
    asked = [query.expr for query in QUERIES] + [rule["expr"] for rule in ALERT_RULES]
    wanted = set().union(*map(metrics_in, asked)) - {"ALERTS", "up"}
    assert wanted <= set().union(*declared().values())


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_and_a_first_action(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert "{{" in rule["annotations"]["description"]
    assert rule["annotations"]["runbook"] == f"deploy/README.md#{rule['alert'].lower()}"
    assert "**First:**" in RUNBOOK[rule["alert"]]


def test_the_runbook_knows_only_what_there_is() -> None:
    assert list(RUNBOOK) == [rule["alert"] for rule in ALERT_RULES]
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", "".join(RUNBOOK.values())))
    assert named
    assert named <= {panel["title"] for panel in PANELS}
    variables = set(re.findall(r"`([A-Z][A-Z_]+)(?:=\w+)?`", "".join(RUNBOOK.values())))
    assert variables - {"CRITICAL"} <= {name.upper() for name in Settings.model_fields}


def test_each_alert_is_shown_quiet_and_firing() -> None:
    shown = [
        case
        for t in yaml.safe_load(ALERTS_TEST.read_text())["tests"]
        for case in t["alert_rule_test"]
    ]
    names = {rule["alert"] for rule in ALERT_RULES}
    assert {case["alertname"] for case in shown if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in shown if not case.get("exp_alerts")} == names


@pytest.mark.parametrize("what", [("check", "rules", ALERTS), ("test", "rules", ALERTS_TEST)])
def test_promtool_agrees(what: tuple[str, str, Path], needs_prometheus: None) -> None:
    done = subprocess.run([PROMTOOL, *map(str, what)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
