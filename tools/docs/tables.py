"""What is generated: one function for each table, found by the name that documents call it by.

Arguments are names inside the ``magenta_bento`` package, such as ``web.request_models.TextPrompt``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click
from click.testing import CliRunner
from prometheus_client import CollectorRegistry

from magenta_bento.cli import main as command_line
from magenta_bento.config import Settings
from magenta_bento.errors import ServiceError
from magenta_bento.metrics import Metrics
from magenta_bento.web import openapi
from tools.docs.fields import answer_table, request_table
from tools.docs.markdown import listed, table


def settings_table() -> str:
    """The table that ``magenta-bento settings --markdown`` prints."""
    return CliRunner().invoke(command_line, ["settings", "--markdown"]).output.strip()


def metrics_table() -> str:
    """Every metric: the name that Prometheus shows, its type, its labels, its help."""
    rows = []
    for metric in vars(Metrics(CollectorRegistry())).values():
        (family,) = metric.describe()
        suffix = "_total" if family.type == "counter" else ""
        labels = listed(metric._labelnames)  # prometheus_client has no public name for these
        rows.append((f"`{family.name}{suffix}`", family.type, labels, family.documentation))
    return table(("Metric", "Type", "Labels", "Meaning"), rows)


def errors_table() -> str:
    """Every error that reaches a client, by HTTP status."""
    kinds: list[type[ServiceError]] = [ServiceError, *_subclasses(ServiceError)]
    kinds.sort(key=lambda kind: (kind.status, kind.type))
    rows = [
        (str(kind.status), f"`{kind.type}`", str(kind.close_code), _summary(kind)) for kind in kinds
    ]
    return table(("HTTP status", "`type`", "WebSocket close code", "When"), rows)


def fields_table(model: str, *others: str) -> str:
    """The fields of a request or message.

    Args:
      model: The name of a pydantic model.
      *others: ``except`` and the name of a model whose fields are left out; ``defaults`` and the
        name of an object whose attributes are the defaults of the fields of the same names.
    """
    left_out: set[str] = set()
    defaults: object = None
    for word, name in zip(others[::2], others[1::2], strict=True):
        if word == "except":
            left_out |= _found(name).model_fields.keys()
        elif word == "defaults":
            defaults = _found(name)
        else:
            raise ValueError(f"{word}: must be except or defaults")
    return request_table(_found(model), left_out, defaults)


def answer(model: str) -> str:
    """The fields of a message from the server."""
    return answer_table(_found(model))


def routes_table() -> str:
    """Every route of the OpenAPI document."""
    rows = [
        (f"`{method.upper()} {path}`", operation["summary"].rstrip("."))
        for path, item in _openapi()["paths"].items()
        for method, operation in item.items()
    ]
    return table(("Route", "What it does"), rows)


def headers_table() -> str:
    """Every header of an answer, and the answers that carry it."""
    document = _openapi()
    answers = [
        (path, status, answer)
        for path, item in document["paths"].items()
        for operation in item.values()
        for status, answer in operation["responses"].items()
    ]
    rows = []
    for name, header in document["components"]["headers"].items():
        carriers = [(p, s) for p, s, answer in answers if name in answer.get("headers", {})]
        if len(carriers) == len(answers):
            where = "every answer"
        else:
            statuses = sorted({status for _, status in carriers})
            families = dict.fromkeys(f"`/{path.split('/')[1]}`" for path, _ in carriers)
            where = f"{', '.join(statuses)} of {', '.join(families)}"
            if statuses != ["200"]:
                where = ", ".join(statuses)
        rows.append((f"`{name}`", where, header["description"]))
    return table(("Header", "Where", "Meaning"), rows)


def commands_list() -> str:
    """Every command of ``magenta-bento`` with its options, a section for each."""
    sections = []
    for path, command in _commands(command_line, "magenta-bento"):
        context = click.Context(command, info_name=path)
        usage = " ".join([path, *command.collect_usage_pieces(context)])
        section = f"## `{path}`\n\n{command.help}\n\n```text\n{usage}\n```"
        options = [
            record
            for parameter in command.params
            if isinstance(parameter, click.Option)
            and (record := parameter.get_help_record(context))
        ]
        if options:
            rows = [(f"`{option}`", meaning) for option, meaning in options]
            section += f"\n\n{table(('Option', 'Meaning'), rows)}"
        sections.append(section)
    return "\n" + "\n\n".join(sections) + "\n"


TABLES: Mapping[str, Callable[..., str]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "errors": errors_table,
    "fields": fields_table,
    "answer": answer,
    "routes": routes_table,
    "headers": headers_table,
    "commands": commands_list,
}


@functools.cache
def _openapi() -> dict[str, Any]:
    """What /docs.json serves where keys are asked for, and all other settings are the defaults."""
    with_keys = Settings.model_validate({"enable_auth": True, "api_keys_file": "keys"})
    return openapi.document(with_keys)


def _found(name: str) -> Any:
    """An object of the package, by the names of its module and itself."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"magenta_bento.{module}"), attribute)


def _subclasses(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _summary(kind: type) -> str:
    """The first paragraph of a class's own docstring, as Markdown on one line."""
    paragraph = (kind.__dict__["__doc__"] or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "`")
