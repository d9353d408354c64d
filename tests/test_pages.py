"""The pages beside the API: documentation that needs no network, probes and metrics."""

from __future__ import annotations

import hashlib
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import jsonschema
import openapi_spec_validator
import pytest
import requests
from serving import Server

from magenta_bento.controls import Controls

POST_ROUTES = {
    "/generate/text",
    "/generate/audio",
    "/generate/blend",
    "/embed/text",
    "/embed/audio",
}
ASSET_TYPES = {"js": "text/javascript", "css": "text/css", "json": "application/json"}


# Of redoc@2.4.0 in npm's registry: the plugin holds the very file that ReDoc's makers publish.
REDOC_SHA256 = "2c0d3cb1a32e2417c5b7200da812fdf48e48d2a6ed9c49a39926c7fd3181d14c"


def get(server: Server, path: str) -> requests.Response:
    return requests.get(f"{server.url}{path}", timeout=30)


class References(HTMLParser):
    """Every address that a page makes a browser fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [
            url
            for name, url in attrs
            if name in ("src", "href", "spec-url") and url and not url.startswith("data:")
        ]


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    parsed: dict[str, Any] = get(server, "/docs.json").json()
    return parsed


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_has_all_it_needs_here(server: Server, page: str) -> None:
    reply = get(server, page)
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "://" not in reply.text
    urls = References(reply.text).urls
    assert urls
    for url in urls:
        # Relative, so that it holds behind a proxy that serves us under a path.
        assert not urlsplit(url).netloc
        assert not url.startswith("/")
        asset = requests.get(urljoin(f"{server.url}{page}", url), timeout=30)
        assert asset.status_code == 200, url
        assert asset.headers["Content-Type"].startswith(ASSET_TYPES[url.rpartition(".")[2]])
        assert len(asset.content) > 1_000


def test_redoc_is_what_its_makers_publish(server: Server) -> None:
    script = get(server, "/docs-assets/redoc.standalone.js").content
    assert hashlib.sha256(script).hexdigest() == REDOC_SHA256


def test_swagger_ui_reads_the_document_and_asks_no_validator(server: Server) -> None:
    html = get(server, "/docs").text
    assert 'url: "docs.json"' in html
    assert "validatorUrl: null" in html  # else swagger.io gets to know of the server


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_loads_nothing_from_elsewhere(server: Server, page: str) -> None:
    """ReDoc's bundle names a logo on a CDN."""
    policy = get(server, page).headers["Content-Security-Policy"].split("; ")
    assert "default-src 'self'" in policy
    assert "img-src 'self' data:" in policy
    (scripts,) = (part for part in policy if part.startswith("script-src"))
    assert "unsafe" not in scripts


def test_the_front_page_leads_to_the_documentation(server: Server) -> None:
    assert get(server, "/").url == f"{server.url}/docs"


def test_the_document_is_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    openapi_spec_validator.validate(document)


def test_the_document_lists_every_route(document: dict[str, Any]) -> None:
    methods = {path: set(item) for path, item in document["paths"].items()}
    assert {route: methods.get(route) for route in POST_ROUTES} == {
        route: {"post"} for route in POST_ROUTES
    }
    assert methods["/stream/text"] == methods["/stream/blend"] == {"get", "post"}
    assert methods["/stream/audio"] == methods["/prompts/audio"] == {"post"}
    beside = ("/health", "/metrics", "/requests/{request_id}", "/ws/jam/schema.json")
    assert {path: methods[path] for path in beside} == {path: {"get"} for path in beside}
    assert len(methods) == len(POST_ROUTES) + 4 + len(beside)


@pytest.mark.parametrize("route", sorted(POST_ROUTES))
def test_a_route_takes_forms_and_json_where_files_allow(
    document: dict[str, Any], route: str
) -> None:
    taken = set(document["paths"][route]["post"]["requestBody"]["content"])
    file_is_due = route in ("/generate/audio", "/embed/audio")
    others = {"application/x-www-form-urlencoded", "application/json"}
    assert taken == {"multipart/form-data"} | (set() if file_is_due else others)


def fields_of(document: dict[str, Any], route: str) -> dict[str, Any]:
    content = document["paths"][route]["post"]["requestBody"]["content"]
    properties: dict[str, Any] = content["multipart/form-data"]["schema"]["properties"]
    return properties


@pytest.mark.parametrize("route", ["/generate/text", "/generate/audio", "/generate/blend"])
def test_the_document_tells_defaults_and_bounds(document: dict[str, Any], route: str) -> None:
    fields = fields_of(document, route)
    defaults = {name: fields[name].get("default") for name in fields}
    assert (
        defaults
        | {
            "duration": 10.0,
            "seed": None,
            "temperature": 1.3,
            "top_k": 40,
            "guidance": 3.0,
            "format": "mp3",
        }
        == defaults
    )
    assert (fields["duration"]["exclusiveMinimum"], fields["duration"]["maximum"]) == (0, 120)
    assert (fields["guidance"]["minimum"], fields["guidance"]["maximum"]) == (-1, 6.8)


def test_the_document_tells_every_field(document: dict[str, Any]) -> None:
    sampling = {"duration", "seed", "format", "fade_in", "fade_out", *Controls.model_fields}
    own = {
        "/generate/text": {"prompt"} | sampling,
        "/generate/audio": {"audio_file", "prompt", "audio_weight", "text_weight"} | sampling,
        "/generate/blend": {
            *("text_prompts", "text_weights", "audio_files", "audio_weights"),
            *sampling,
        },
        "/embed/text": {"prompt", "use_mapper"},
        "/embed/audio": {"audio_file"},
    }
    assert {route: set(fields_of(document, route)) for route in own} == own


def checked(document: dict[str, Any], schema: dict[str, Any], body: Any) -> None:
    jsonschema.validate(body, {**schema, "components": document["components"]})


def test_an_error_is_as_the_document_says(server: Server, document: dict[str, Any]) -> None:
    reply = requests.post(f"{server.url}/embed/text", json={"prompt": ""}, timeout=30)
    told = document["paths"]["/embed/text"]["post"]["responses"][str(reply.status_code)]
    checked(document, told["content"]["application/json"]["schema"], reply.json())


def test_an_embedding_is_as_the_document_says(server: Server, document: dict[str, Any]) -> None:
    reply = requests.post(f"{server.url}/embed/text", json={"prompt": "funk"}, timeout=30)
    told = document["paths"]["/embed/text"]["post"]["responses"]["200"]
    checked(document, told["content"]["application/json"]["schema"], reply.json())


def test_health_tells_what_runs(server: Server) -> None:
    body = get(server, "/health").json()
    assert body["status"] == "healthy"
    assert body["models_loaded"] is True
    assert body["model"] == "demo"
    assert body["device"] == "cpu"
    assert "tiny demo model, not Magenta's music" in body["note"]


@pytest.mark.parametrize("probe", ["/livez", "/readyz", "/healthz"])
def test_a_probe(server: Server, probe: str) -> None:
    assert get(server, probe).status_code == 200


def test_metrics(server: Server) -> None:
    requests.post(
        f"{server.url}/generate/text", json={"prompt": "secret words", "duration": 0.2}, timeout=60
    ).raise_for_status()
    text = get(server, "/metrics").text
    values = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("magenta_bento_")
    )
    assert float(values["magenta_bento_slots"]) >= 1
    assert float(values["magenta_bento_ready"]) == 1
    assert float(values["magenta_bento_active_streams"]) == 0
    assert float(values["magenta_bento_queue_length"]) == 0
    assert float(values["magenta_bento_parameter_bytes"]) > 1e6
    assert float(values["magenta_bento_frames_total"]) >= 5
    assert float(values['magenta_bento_streams_total{outcome="finished"}']) >= 1
    assert float(values['magenta_bento_step_frame_seconds_bucket{le="0.04"}']) >= 1
    assert 'model="demo"' in next(name for name in values if "build_info" in name)
    assert "secret words" not in text


def test_no_prompt_is_in_the_log(server: Server) -> None:
    fields = {"prompt": "words that nobody else should read", "duration": 0.04}
    requests.post(f"{server.url}/generate/text", data=fields, timeout=60).raise_for_status()
    assert "nobody else" not in server.log.read_text(errors="replace")
