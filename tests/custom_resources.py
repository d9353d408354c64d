"""The fields that we use of resources whose schemas Kubernetes itself does not have.

From the documentation of the Prometheus Operator (monitoring.coreos.com/v1) and of KEDA 2.18
(keda.sh/v1alpha1). What is not written down here is refused, as a misspelt field would be.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str
    namespace: str | None = None
    labels: dict[str, str] = {}


class Selector(Strict):
    matchLabels: dict[str, str]  # noqa: N815  # theirs, as all names below


class SecretKey(Strict):
    name: str
    key: str


class Authorization(Strict):
    type: str = "Bearer"
    credentials: SecretKey


class Endpoint(Strict):
    port: str
    path: str
    interval: str = Field(pattern=r"^\d+s$")
    authorization: Authorization


class ServiceMonitorSpec(Strict):
    selector: Selector
    endpoints: list[Endpoint] = Field(min_length=1)


class ServiceMonitor(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["ServiceMonitor"]
    metadata: Metadata
    spec: ServiceMonitorSpec


class Rule(Strict):
    alert: str
    expr: str
    for_: str | None = Field(None, alias="for", pattern=r"^\d+[smh]$")
    labels: dict[str, str]
    annotations: dict[str, str]


class Group(Strict):
    name: str
    rules: list[Rule] = Field(min_length=1)


class PrometheusRuleSpec(Strict):
    groups: list[Group] = Field(min_length=1)


class PrometheusRule(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: PrometheusRuleSpec


class Target(Strict):
    name: str


class Fallback(Strict):
    failureThreshold: int  # noqa: N815
    replicas: int
    behavior: Literal["static", "currentReplicas", "currentReplicasIfHigher"]


class AutoscalerConfig(Strict):
    behavior: dict[str, Any]  # of a HorizontalPodAutoscaler: Kubernetes has its schema


class Advanced(Strict):
    horizontalPodAutoscalerConfig: AutoscalerConfig  # noqa: N815


class PrometheusQuery(Strict):
    serverAddress: str  # noqa: N815
    query: str
    threshold: str = Field(pattern=r"^\d+(\.\d+)?$")
    ignoreNullValues: Literal["true", "false"]  # noqa: N815


class Trigger(Strict):
    type: Literal["prometheus"]
    metricType: Literal["AverageValue"]  # noqa: N815
    metadata: PrometheusQuery


class ScaledObjectSpec(Strict):
    scaleTargetRef: Target  # noqa: N815
    minReplicaCount: int = Field(ge=1)  # noqa: N815  # at 0 nobody would be there to ask
    maxReplicaCount: int  # noqa: N815
    pollingInterval: int  # noqa: N815
    fallback: Fallback
    advanced: Advanced
    triggers: list[Trigger] = Field(min_length=1)


class ScaledObject(Strict):
    apiVersion: Literal["keda.sh/v1alpha1"]  # noqa: N815
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


MODELS: dict[str, type[Strict]] = {
    model.__name__: model for model in (ServiceMonitor, PrometheusRule, ScaledObject)
}
