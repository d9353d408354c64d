"""deploy/: what runs the image fits Kubernetes' schemas, the settings, the metrics, and itself.

No cluster and no Docker take part. Manifests are rendered by tests/kustomize.py, and by kubectl
where there is one.
"""

from __future__ import annotations

import ast
import copy
import fnmatch
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import kubernetes_validate
import kustomize
import pytest
import yaml
from _bentoml_sdk.service.config import validate as validate_service
from bentoml._internal.cloud.deployment import DeploymentAPI
from bentoml._internal.cloud.schemas.schemasv2 import CreateDeploymentSchema
from bentoml._internal.container.generate import BENTO_UID_GID
from bentoml._internal.utils.cattr import bentoml_cattr
from custom_resources import MODELS
from packaging.specifiers import SpecifierSet
from prometheus import JOB, PROMTOOL, require
from serving import REPOSITORY
from test_dashboards import declared, metrics_in

from magenta_bento import __version__, cli
from magenta_bento.access.keys import KeyRing
from magenta_bento.config import Settings
from magenta_bento.web.routes import METRICS, ROUTES, KeyRequirement
from magenta_bento.weights import catalog

Object = dict[str, Any]

DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
EXAMPLE = KUBERNETES / "overlays" / "example"
FOLDERS = [path.parent for path in sorted(KUBERNETES.rglob(kustomize.FILE))]
COMPOSE = DEPLOY / "compose"
SPACE = DEPLOY / "spaces"
BENTOCLOUD: Object = yaml.safe_load((DEPLOY / "bentocloud.yaml").read_text())
README = (DEPLOY / "README.md").read_text()

SCHEMAS = ("1.30", "1.37")  # the oldest that is meant to work, and the newest there are
GENERATED = r"\b(magenta-bento-(?:settings|drain))-[a-z0-9]{10}\b"  # with a hash, by kubectl
SETTINGS = {name.upper() for name in Settings.model_fields}
DEFAULTS = Settings()
# What is set for others than us.
FOREIGN = {
    "BENTOML_HOME": "where BentoML wants to write",
    "HOME": "where everybody else does",
    "PYTHONPATH": "where the image has magenta_bento",
    "LD_LIBRARY_PATH": "where GKE puts the driver",
    "HF_TOKEN": "of the hub",
}
# Ready is not asked at the start: a Redis that is down is no reason to start anew.
PROBES = {"startup": "/health", "readiness": "/readyz", "liveness": "/livez"}
PORT = next(option.default for option in cli.serve.params if option.name == "port")
END_S = 10  # what a server needs to end after its grace period
PINNED = re.compile(r"(?P<name>[a-z0-9./-]+):(?P<tag>v?\d+\.\d+[a-z0-9.-]*)")


def objects(folder: Path) -> list[Object]:
    """Rendered, but read anew: anchors of the files would tie parts of an object together."""
    return copy.deepcopy(kustomize.render(folder))


RENDERED = objects(EXAMPLE)
SECRETS = [o for path in sorted(KUBERNETES.rglob("*.example.yaml")) for o in kustomize.read(path)]


def title(item: Object) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def one(kind: str, name: str = "magenta-bento") -> Object:
    (found,) = (o for o in RENDERED if o["kind"] == kind and o["metadata"]["name"] == name)
    return found


def all_of(kind: str) -> list[Object]:
    found = [item for item in RENDERED if item["kind"] == kind]
    assert found, kind
    return found


SERVER_POD: Object = one("Deployment")["spec"]["template"]["spec"]
(SERVER,) = SERVER_POD["containers"]
CONFIG: dict[str, str] = one("ConfigMap", "magenta-bento-settings")["data"]
PODS = [item["spec"]["template"] for item in all_of("Deployment")]


def is_ours(image: str) -> bool:
    return image.rpartition(":")[0].rpartition("/")[2] == "magenta-bento"


def seconds(text: str) -> float:
    """A duration of compose or of HAProxy."""
    found = re.fullmatch(r"(\d+)(s|m|h)", text)
    assert found, text
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


# The manifests, one by one.


def validate(item: Object, version: str) -> None:
    """Raises what the validator raises."""
    if model := MODELS.get(item["kind"]):
        model.model_validate(item)
    else:
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("version", SCHEMAS)
@pytest.mark.parametrize("item", [*objects(BASE), *RENDERED, *SECRETS], ids=title)
def test_a_manifest_fits_its_schema(item: Object, version: str) -> None:
    validate(item, version)


@pytest.mark.parametrize("item", RENDERED, ids=title)
def test_a_misspelt_field_is_seen(item: Object) -> None:
    broken = item | {"sepc": {}}
    with pytest.raises(
        ValueError if item["kind"] in MODELS else kubernetes_validate.ValidationError
    ):
        validate(broken, SCHEMAS[-1])


def test_the_scaling_behaviour_is_that_of_an_autoscaler() -> None:
    spec = one("ScaledObject")["spec"]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", **spec["scaleTargetRef"]}
    assert one("Deployment", target["name"])
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "as-keda-makes-it"},
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": spec["minReplicaCount"],
            "maxReplicas": spec["maxReplicaCount"],
            "behavior": spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
        },
    }
    validate(autoscaler, SCHEMAS[0])
    assert spec["minReplicaCount"] <= spec["maxReplicaCount"]
    assert "replicas" not in one("Deployment")["spec"]  # an apply would undo the scaling


# Kustomize.


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_kustomization_names_all_its_files_and_no_others(folder: Path) -> None:
    there = {path.resolve() for path in folder.iterdir() if path.name != kustomize.FILE}
    there -= {path.resolve() for path in folder.glob("*.example.yaml")}
    named = kustomize.files_named(folder)
    assert {path for path in named if folder.resolve() in path.parents} == there
    for path in named - there:
        assert (path / kustomize.FILE).is_file(), path


def test_the_example_uses_everything() -> None:
    parts = {path.resolve() for path in FOLDERS if path != EXAMPLE}
    assert len(parts) == 6
    assert parts <= kustomize.files_named(EXAMPLE)


def test_everything_is_in_the_namespace_that_is_made() -> None:
    (namespace,) = (item["metadata"]["name"] for item in all_of("Namespace"))
    others = [item for item in RENDERED if item["kind"] != "Namespace"]
    assert {item["metadata"]["namespace"] for item in others} == {namespace}
    assert set(re.findall(r"-n ([a-z-]+)", README)) == {namespace, "monitoring"}


@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=lambda folder: folder.name)
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl: optional on any machine")
def test_kubectl_renders_the_same(folder: Path) -> None:
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    theirs = list(yaml.safe_load_all(re.sub(GENERATED, r"\1", done.stdout)))
    ours = objects(folder)
    assert sorted(map(title, ours)) == sorted(map(title, theirs))
    for item in theirs:
        (same,) = (o for o in ours if title(o) == title(item))
        assert kustomize.ordered(same) == kustomize.ordered(item), title(item)


# Names that have to be the same in two places.


def labels_of(pods: list[Object], selector: Object) -> list[Object]:
    wanted = selector.get("matchLabels", selector).items()
    return [pod for pod in pods if wanted <= pod["metadata"]["labels"].items()]


def ports_of(pod: Object) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container["ports"]
    }


def test_every_selector_selects_one_kind_of_pod() -> None:
    selectors = [item["spec"]["selector"] for item in all_of("Deployment") + all_of("Service")]
    selectors += [item["spec"]["selector"] for item in all_of("PodDisruptionBudget")]
    selectors += [item["spec"]["podSelector"] for item in all_of("NetworkPolicy")]
    for selector in selectors:
        assert len(labels_of(PODS, selector)) == 1, selector
    (monitored,) = (
        service
        for service in all_of("Service")
        if one("ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
        <= service["metadata"]["labels"].items()
    )
    assert monitored["metadata"]["name"] == JOB  # what Prometheus calls the job by


def test_every_port_is_one_that_is_served() -> None:
    assert ports_of(labels_of(PODS, one("Service")["spec"]["selector"])[0]) == {"http": PORT}
    for service in all_of("Service"):
        (pod,) = labels_of(PODS, service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports_of(pod).keys()
    for policy in all_of("NetworkPolicy"):
        (pod,) = labels_of(PODS, policy["spec"]["podSelector"])
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} <= ports_of(pod).keys()
    offered = {port["name"] for port in one("Service")["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in one("ServiceMonitor")["spec"]["endpoints"]} <= offered
    for rule in one("Ingress")["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            assert backend["name"] == one("Service")["metadata"]["name"]
            assert backend["port"]["name"] in offered
    assert drain_module().PORT == PORT


def test_servers_may_reach_redis_where_it_listens() -> None:
    found = re.fullmatch(r"redis://([a-z-]+):(\d+)/\d+", CONFIG["RATE_LIMIT_STORAGE"])
    assert found
    host, port = found[1], found[2]
    (listening,) = one("Service", host)["spec"]["ports"]
    assert listening["port"] == int(port)
    (pod,) = labels_of(PODS, one("Service", host)["spec"]["selector"])
    assert ports_of(pod) == {listening["targetPort"]: int(port)}
    (rule,) = one("NetworkPolicy", "magenta-bento-to-redis")["spec"]["egress"]
    (to,) = rule["to"]
    assert labels_of(PODS, to["podSelector"]) == [pod]
    assert rule["ports"] == [{"port": int(port)}]


def open_paths() -> set[str]:
    return {route.path for route in ROUTES if route.api_key is KeyRequirement.NEVER}


def test_probes_ask_routes_that_need_no_key() -> None:
    paths = {name: SERVER[f"{name}Probe"]["httpGet"]["path"] for name in PROBES}
    assert paths == PROBES
    assert set(paths.values()) <= open_paths()
    for name in PROBES:
        probe = SERVER[f"{name}Probe"]
        assert probe["httpGet"]["port"] in ports_of(
            labels_of(PODS, one("Service")["spec"]["selector"])[0]
        )
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]
    starting = SERVER["startupProbe"]
    assert starting["periodSeconds"] * starting["failureThreshold"] >= 1800  # it compiles
    assert {e["path"] for e in one("ServiceMonitor")["spec"]["endpoints"]} == {METRICS.path}


def test_secrets_are_those_that_the_examples_make() -> None:
    made = {s["metadata"]["name"]: set(s["stringData"]) for s in SECRETS}
    volumes = {v["secret"]["secretName"]: v["name"] for v in SERVER_POD["volumes"] if "secret" in v}
    (endpoint,) = one("ServiceMonitor")["spec"]["endpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert made == {next(iter(volumes)): {"keys"}, credentials["name"]: {credentials["key"]}}
    (mount,) = (m for m in SERVER["volumeMounts"] if m["name"] == next(iter(volumes.values())))
    assert CONFIG["API_KEYS_FILE"] == f"{mount['mountPath']}/keys"
    assert "subPath" not in mount  # else a changed key would never arrive
    (tls,) = one("Ingress")["spec"]["tls"]
    told = re.findall(r"create secret [a-z]+ ([a-z-]+) ", README)
    assert set(told) == {*made, tls["secretName"]}
    assert {rule["host"] for rule in one("Ingress")["spec"]["rules"]} == set(tls["hosts"])
    assert CONFIG["PUBLIC_URL"] == f"https://{tls['hosts'][0]}"


def test_maps_that_pods_read_are_made() -> None:
    """Kubectl would leave a name that it does not know as it is, and the pod would wait for it."""
    maps = {item["metadata"]["name"] for item in all_of("ConfigMap")}
    read = {
        source["configMapRef"]["name"]
        for container in kustomize.containers(RENDERED)
        for source in container.get("envFrom", [])
    }
    volumes = [volume for pod in PODS for volume in pod["spec"]["volumes"]]
    assert read | {v["configMap"]["name"] for v in volumes if "configMap" in v} == maps


def test_a_client_finds_back_to_its_server() -> None:
    """The controller takes this from a Service alone, and the rest from an Ingress."""
    annotations = one("Service")["metadata"]["annotations"]
    assert annotations.keys() == {"haproxy.org/cookie-persistence"}
    assert f"`{annotations['haproxy.org/cookie-persistence']}`" in README
    assert one("Ingress")["metadata"]["annotations"].keys() == {
        "haproxy.org/ssl-redirect",
        "haproxy.org/load-balance",
        "haproxy.org/timeout-server",
    }


def test_the_example_keys_are_keys() -> None:
    (keys,) = (s["stringData"]["keys"] for s in SECRETS if "keys" in s["stringData"])
    entries = [line for line in keys.splitlines() if not line.startswith("#")]
    assert KeyRing(",".join(entries))


# Settings and metrics.


def dockerfile_env() -> dict[str, str]:
    text = (SPACE / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.removeprefix("ENV ") for line in text.splitlines() if line.startswith("ENV ")]
    model = re.search(r"^ARG MODEL=(\w+)$", text, re.MULTILINE)
    assert model
    pairs = [pair.split("=", 1) for line in lines for pair in line.split()]
    return {name: value.replace("$MODEL", model[1]) for name, value in pairs}


def variables() -> dict[str, dict[str, str]]:
    """Where variables are set for our image, and to what."""
    of_pods = {
        f"container {container['name']}": {e["name"]: e["value"] for e in container.get("env", [])}
        for container in kustomize.containers(RENDERED)
        if is_ours(container["image"])
    }
    of_compose = {
        f"compose {name}": service["environment"]
        for name, service in composed()["services"].items()
        if is_ours(service["image"]) and "environment" in service
    }
    of_cloud = {e["name"]: e["value"] for e in BENTOCLOUD["envs"]}
    rest = {"kubernetes": CONFIG, "space": dockerfile_env(), "bentocloud": of_cloud}
    return of_pods | of_compose | rest


def test_every_variable_is_a_setting_and_its_value_one_that_is_taken() -> None:
    assert len(variables()) == 7
    for where, told in variables().items():
        assert told.keys() <= SETTINGS | FOREIGN.keys(), where
        assert all(isinstance(value, str) for value in told.values()), where
        Settings.from_env(told)
    assert {n for told in variables().values() for n in told} >= FOREIGN.keys()


def test_a_model_is_named_that_can_be_downloaded() -> None:
    (init,) = SERVER_POD["initContainers"]
    assert init["command"][-1] == "$(MAGENTA_MODEL)"
    assert CONFIG["MAGENTA_MODEL"] in catalog.TRAINED
    assert dockerfile_env()["MAGENTA_MODEL"] in catalog.TRAINED


def test_every_metric_is_ours() -> None:
    known = set().union(*declared().values())
    for path in DEPLOY.rglob("*"):
        if path.suffix in (".yaml", ".yml") and "prometheus/" not in path.as_posix():
            text = re.sub(r"#.*", "", path.read_text())
            assert set(re.findall(r"\bmagenta_bento_\w+", text)) <= known | {"magenta_bento_"}, path
    asked = [t["metadata"]["query"] for t in one("ScaledObject")["spec"]["triggers"]]
    assert {m for query in asked for m in metrics_in(query)} == {
        "magenta_bento_active_streams",
        "magenta_bento_slots",
        "magenta_bento_queue_length",
    }
    for query in asked:
        selectors = re.findall(r"magenta_bento_\w+\{([^}]*)\}", query)
        namespace = one("Namespace")["metadata"]["name"]
        assert set(selectors) == {f'job="{JOB}", namespace="{namespace}"'}


def test_the_rule_is_made_of_our_alerts_by_the_command_of_the_page(tmp_path: Path) -> None:
    alerts = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    assert one("PrometheusRule")["spec"] == alerts
    (command,) = (c for c in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "made=" in c)
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (rule,) = tmp_path.rglob("prometheusrule.yaml")
    told = rule.read_text()
    rule.write_text(told[: told.index("spec:\n") + 20])
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True, timeout=30)
    assert rule.read_text() == told


def test_promtool_takes_the_configuration_and_the_queries(tmp_path: Path) -> None:
    require()
    for path in (COMPOSE / "prometheus.yml", DEPLOY / "prometheus" / "alerts.yml"):
        shutil.copy(path, tmp_path)
    queries = [t["metadata"]["query"] for t in one("ScaledObject")["spec"]["triggers"]]
    rules = [{"record": f"query{i}", "expr": query} for i, query in enumerate(queries)]
    scaling = tmp_path / "scaling.yml"
    scaling.write_text(yaml.safe_dump({"groups": [{"name": "scaling", "rules": rules}]}))
    for what in (["config", str(tmp_path / "prometheus.yml")], ["rules", str(scaling)]):
        done = subprocess.run([PROMTOOL, "check", *what], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# Starting, stopping, and what a container may do.


def test_a_pod_has_time_to_drain_and_then_to_end() -> None:
    *_, script, at_most = SERVER["lifecycle"]["preStop"]["exec"]["command"]
    (mount,) = (m for m in SERVER["volumeMounts"] if m["name"] == "drain")
    assert script == f"{mount['mountPath']}/drain.py"
    assert set(one("ConfigMap", "magenta-bento-drain")["data"]) == {"drain.py"}
    grace_s = float(CONFIG["SHUTDOWN_GRACE_S"])
    assert grace_s == DEFAULTS.shutdown_grace_s
    assert float(at_most) >= DEFAULTS.max_stream_duration
    assert float(at_most) + grace_s + END_S <= SERVER_POD["terminationGracePeriodSeconds"]
    quiet_s = seconds(one("Ingress")["metadata"]["annotations"]["haproxy.org/timeout-server"])
    assert quiet_s >= 10 * DEFAULTS.max_duration


def test_compose_gives_the_server_time_to_end() -> None:
    server = composed()["services"]["server"]
    grace_s = float(server["environment"]["SHUTDOWN_GRACE_S"])
    assert grace_s == DEFAULTS.shutdown_grace_s
    assert seconds(server["stop_grace_period"]) >= grace_s + END_S


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod["spec"]["containers"][0]["name"])
def test_a_pod_may_do_little(pod: Object) -> None:
    """What Pod Security calls restricted, and more."""
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert (
        one("ServiceAccount", spec["serviceAccountName"])["automountServiceAccountToken"] is False
    )
    assert spec["enableServiceLinks"] is False
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["runAsGroup"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        used = {mount["name"] for mount in container["volumeMounts"]}
        assert used <= {volume["name"] for volume in spec["volumes"]}
    mounted = {m["name"] for c in kustomize.containers(RENDERED) for m in c["volumeMounts"]}
    assert {volume["name"] for volume in spec["volumes"]} <= mounted


def writable(container: Object) -> set[str]:
    return {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}


def test_the_server_is_bentomls_user_and_can_write_where_it_has_to() -> None:
    context = SERVER_POD["securityContext"]
    assert {context[k] for k in ("runAsUser", "runAsGroup", "fsGroup")} == {BENTO_UID_GID}
    (init,) = SERVER_POD["initContainers"]
    assert writable(SERVER) == {CONFIG["COMPILE_CACHE"], "/tmp"}
    assert writable(init) == {CONFIG["MAGENTA_HOME"], "/tmp"}
    assert CONFIG["MAGENTA_HOME"] in {m["mountPath"] for m in SERVER["volumeMounts"]}
    for container, wanted in ((SERVER, {"HOME", "BENTOML_HOME"}), (init, {"HOME"})):
        homes = {e["name"]: e["value"] for e in container["env"] if e["name"].endswith("HOME")}
        assert homes.keys() == wanted
        assert all(Path(home).is_relative_to("/tmp") for home in homes.values())
    volumes = {volume["name"]: volume for volume in SERVER_POD["volumes"]}
    assert "emptyDir" in volumes["tmp"]
    claim = one("PersistentVolumeClaim", volumes["models"]["persistentVolumeClaim"]["claimName"])
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]  # several pods, on several nodes


def test_the_gpu_is_asked_for_and_its_nodes_are_tolerated() -> None:
    assert SERVER["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert SERVER_POD["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert [t["key"] for t in SERVER_POD["tolerations"]] == ["nvidia.com/gpu"]
    (plain,) = (o for o in objects(BASE) if o["kind"] == "Deployment")
    assert "nvidia" not in json.dumps(plain)  # which the base leaves to the component


def test_every_image_is_pinned() -> None:
    images = {c["image"] for c in kustomize.containers([*RENDERED, *objects(BASE)])}
    images |= {service["image"] for service in composed()["services"].values()}
    (base,) = re.findall(r"^FROM (\S+)$", (SPACE / "Dockerfile").read_text(), re.MULTILINE)
    images.add(base)
    assert len(images) == 6
    for image in images:
        found = PINNED.fullmatch(image)
        assert found, image
        if is_ours(image):
            assert found["tag"] == __version__
    redis = [image for image in images if image.startswith("redis:")]
    assert len(redis) == 1  # the same for compose and Kubernetes


# Draining.


def drain_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("drain", BASE / "drain.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SETTLE_S, module.LOOK_EVERY_S = 0.0, 0.01
    return module


@contextmanager
def health(*answers: Object | int) -> Iterator[tuple[int, list[str]]]:
    """A server that gives these answers, the last one for ever; and what it was asked."""
    left = list(answers)
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # its name
            asked.append(self.path)
            answer = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(answer if isinstance(answer, int) else 200)
            self.end_headers()
            self.wfile.write(b"" if isinstance(answer, int) else json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()


def streams(active: int, waiting: int) -> Object:
    return {"status": "healthy", "streams": {"active": active, "waiting": waiting, "capacity": 4}}


def test_a_pod_is_held_until_nobody_plays_or_waits() -> None:
    drain = drain_module()
    with health(streams(2, 1), streams(1, 0), streams(0, 1), streams(0, 0)) as (port, asked):
        drain.drain(30, "127.0.0.1", port)
    assert asked == ["/health"] * (3 + drain.LOOKS)


def test_one_answer_that_fails_is_no_silence() -> None:
    drain = drain_module()
    with health(streams(1, 0), 500, streams(1, 0), streams(0, 0)) as (port, asked):
        drain.drain(30, "127.0.0.1", port)
    assert len(asked) == 3 + drain.LOOKS


def test_music_without_an_end_is_not_waited_for_without_an_end() -> None:
    drain = drain_module()
    began = time.monotonic()
    with health(streams(1, 0)) as (port, asked):
        drain.drain(0.3, "127.0.0.1", port)
    assert time.monotonic() - began >= 0.3
    assert drain.LOOKS <= len(asked) <= 0.3 / drain.LOOK_EVERY_S


def test_a_server_that_is_gone_or_loads_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    drain = drain_module()
    with health({"status": "loading"}) as (port, asked):
        drain.drain(30, "127.0.0.1", port)
        assert len(asked) == drain.LOOKS
    looks = Mock(wraps=drain.is_busy)
    monkeypatch.setattr(drain, "is_busy", looks)
    drain.drain(30, "127.0.0.1", port)  # nobody listens there any more
    assert looks.call_count == drain.LOOKS


def test_the_script_needs_only_python_and_a_number() -> None:
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse((BASE / "drain.py").read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert names <= set(sys.stdlib_module_names)
    done = subprocess.run([sys.executable, BASE / "drain.py", "0"], capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr


# Compose.


def env_example() -> dict[str, str]:
    lines = (COMPOSE / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose_text() -> str:
    return "\n".join(path.read_text() for path in sorted(COMPOSE.glob("compose*.yaml")))


def composed() -> Object:
    """compose.yaml as it is with .env.example and a password, merge keys resolved."""
    values = env_example() | {"GRAFANA_PASSWORD": "chosen"}
    text = (COMPOSE / "compose.yaml").read_text()
    # Quoted, as compose puts values in after it has parsed: an empty one stays a text.
    text = re.sub(r"^( +\w+: )(\$\{\w+[^}]*\})$", r'\1"\2"', text, flags=re.MULTILINE)
    filled = re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: values[found[1]], text)
    told: Object = yaml.safe_load(filled)
    return told


def test_every_variable_of_compose_is_in_the_example_and_the_other_way_round() -> None:
    read = set(re.findall(r"\$\{(\w+)", compose_text()))
    assert read
    assert read | {"COMPOSE_FILE"} == env_example().keys()
    assert "$" not in re.sub(r"\$\{\w+(:\?[^}$]*)?\}", "", compose_text())
    files = env_example()["COMPOSE_FILE"].split(":")
    assert set(files) == {path.name for path in COMPOSE.glob("compose*.yaml")}


def test_the_example_has_the_defaults_of_the_settings() -> None:
    given = {n: v for n, v in env_example().items() if n in SETTINGS and v}
    chosen = {"METRICS_WITHOUT_KEY", "LOG_FORMAT"}  # told in the file
    told = Settings.from_env(given)
    for name in given.keys() - chosen:
        assert getattr(told, name.lower()) == getattr(DEFAULTS, name.lower()), name


def test_services_of_compose_may_do_little() -> None:
    services = composed()["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service
        if name == "folders":
            assert service["cap_add"] == ["CHOWN"]
            assert service["network_mode"] == "none"
        else:
            assert "cap_add" not in service, name
            assert service.get("user") != "root", name
        for port in service.get("ports", []):
            assert port.startswith(f"{env_example()['BIND']}:"), name
    assert any(mount.startswith("/tmp") for mount in services["server"]["tmpfs"])
    owner, *owned = services["folders"]["entrypoint"][1:]
    assert owner == f"{BENTO_UID_GID}:{BENTO_UID_GID}"
    settings = services["server"]["environment"]
    assert set(owned) == {settings["MAGENTA_HOME"], settings["COMPILE_CACHE"]}
    assert {v.partition(":")[2] for v in services["server"]["volumes"]} == set(owned)


def test_what_compose_names_is_there() -> None:
    told = composed()
    used = set()
    for name, service in told["services"].items():
        assert set(service.get("depends_on", {})) <= told["services"].keys(), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).is_file(), volume
                assert volume.endswith(":ro"), volume
            else:
                used.add(source)
    assert used == told["volumes"].keys()
    (gpu,) = yaml.safe_load((COMPOSE / "compose.gpu.yaml").read_text())["services"].items()
    assert gpu[0] in told["services"]
    (device,) = gpu[1]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu", "compute", "utility"]}


def test_compose_asks_the_server_whether_it_is_ready() -> None:
    server = composed()["services"]["server"]
    kind, python, option, code = server["healthcheck"]["test"]
    assert (kind, python, option) == ("CMD", "python", "-c")
    found = re.search(r'"http://127\.0\.0\.1:(\d+)(/\w+)"', code)
    assert found
    assert int(found[1]) == PORT
    assert found[2] in open_paths()
    with health(200) as (port, asked):
        command = [sys.executable, "-c", code.replace(f":{PORT}", f":{port}")]
        assert subprocess.run(command, capture_output=True, timeout=30).returncode == 0
        assert asked == [found[2]]
    with health(503) as (port, _):
        command = [sys.executable, "-c", code.replace(f":{PORT}", f":{port}")]
        assert subprocess.run(command, capture_output=True, timeout=30).returncode != 0
    assert [p.rpartition(":")[2] for p in server["ports"]] == [str(PORT)]


def test_prometheus_and_grafana_of_compose_find_what_they_look_for() -> None:
    services = composed()["services"]
    config = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == JOB
    assert [c["targets"] for c in job["static_configs"]] == [[f"server:{PORT}"]]
    mounts = dict(v.split(":")[:2] for v in services["prometheus"]["volumes"])
    assert mounts["../prometheus/alerts.yml"] == "/etc/prometheus/alerts.yml"
    assert config["rule_files"] == ["alerts.yml"]
    mounts = dict(v.split(":")[:2] for v in services["grafana"]["volumes"])
    (source,) = yaml.safe_load((COMPOSE / "grafana/datasource.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"] is True  # the dashboard takes what is default
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((COMPOSE / "grafana/dashboards.yml").read_text())["providers"]
    dashboard = Path(mounts["../grafana/magenta-bento.json"])
    assert dashboard.parent == Path(provider["options"]["path"])


# The Space and BentoCloud.


def test_the_space_serves_where_its_front_matter_says() -> None:
    front = yaml.safe_load((SPACE / "README.md").read_text().split("---\n")[1])
    assert front["sdk"] == "docker"
    assert front["suggested_hardware"] == "l4x1"
    text = (SPACE / "Dockerfile").read_text()
    assert re.findall(r"^EXPOSE (\d+)$", text, re.MULTILINE) == [str(front["app_port"])]
    (command,) = (json.loads(c) for c in re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE))
    assert command == ["magenta-bento", "serve", "--port", str(front["app_port"])]
    assert cli.main.commands.keys() >= {"serve", "models"}
    assert front["app_port"] == 7860
    assert front["license"] == "apache-2.0"


def test_the_space_installs_this_package_and_runs_as_its_user() -> None:
    lines = (SPACE / "Dockerfile").read_text().splitlines()
    (copied,) = (line.split()[1:-1] for line in lines if line.startswith("COPY "))
    # What the page's commands put beside the Dockerfile.
    there = ["requirements-cuda.txt", f"magenta_bento-{__version__}-py3-none-any.whl"]
    assert all(name in README for name in there)
    assert (REPOSITORY / there[0]).is_file()
    assert [fnmatch.filter(there, pattern) for pattern in copied] == [[name] for name in there]
    assert any("useradd" in line and "--uid 1000 user" in line for line in lines)
    user = lines.index("USER user")
    assert user < next(i for i, line in enumerate(lines) if "models download" in line)
    assert not [line for line in lines[user + 1 :] if line.startswith("USER")]
    (python,) = (
        re.findall(r"FROM python:(\d+\.\d+\.\d+)-", line) for line in lines if "FROM" in line
    )
    project = (REPOSITORY / "pyproject.toml").read_text()
    wanted = re.search(r'^requires-python = "(.*)"$', project, re.MULTILINE)
    assert wanted
    assert SpecifierSet(wanted[1]).contains(python[0])


def test_bentocloud_takes_the_deployment() -> None:
    """BentoML drops what it does not know; so each field has to come back."""
    told = bentoml_cattr.structure(
        BENTOCLOUD | {"bento": "magenta-bento:1"}, CreateDeploymentSchema
    )
    DeploymentAPI._fix_and_validate_schema(told)
    back = bentoml_cattr.unstructure(told)
    assert back == BENTOCLOUD | {"bento": "magenta-bento:1"}
    ((name, service),) = BENTOCLOUD["services"].items()
    decorator = re.search(
        r'@bentoml\.service\(\n +name="([\w-]+)"', (REPOSITORY / "service.py").read_text()
    )
    assert decorator
    assert decorator[1] == name
    assert service["instance_type"] == "gpu.l4.1"
    assert (
        validate_service(copy.deepcopy(service["config_overrides"])) == service["config_overrides"]
    )
    timeout = re.search(r"^NO_TIMEOUT_S = ([\d *]+)", (REPOSITORY / "service.py").read_text(), re.M)
    assert timeout
    no_timeout_s = math.prod(map(int, timeout[1].split("*")))
    assert service["config_overrides"]["traffic"]["timeout"] == no_timeout_s


# The page.


def test_what_the_page_names_is_there() -> None:
    assert set(re.findall(r"magenta[_-]bento[:-](\d[\w.]*)", README)) == {__version__}
    paths = set(re.findall(r"\bdeploy/[\w./-]+\w", README))
    assert len(paths) > 5
    for path in paths:
        assert (REPOSITORY / path).exists(), path
    table = set(re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE))
    for path in table:
        assert (DEPLOY / path).exists(), path
    tops = {path.relative_to(DEPLOY).parts[0] for path in DEPLOY.iterdir()} - {"README.md"}
    assert {Path(path).parts[0] for path in table} >= tops
