"""The ``magenta-bento`` command: settings, controls, models, plan, serve.

Exit codes: 0 for success, 1 for a failure that one sentence on stderr explains, 2 for a command
line that can't be understood.

Invariant: a command imports only what it needs, so that ``settings`` prints at once and only
``models verify`` starts JAX.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from magenta_bento import __version__
from magenta_bento.config import SettingDescription, Settings, describe
from magenta_bento.errors import MagentaBentoError, WeightsError
from magenta_bento.planning import options
from magenta_bento.weights import catalog

if TYPE_CHECKING:
    from magenta_bento.planning.case import ComputedDevice, MeasuredDevice
    from magenta_bento.planning.gpus import Gpu


class _Commands(click.Group):
    """A group of commands that end with one sentence on stderr and exit code 1 on our errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MagentaBentoError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Google's Magenta RealTime 2 music model as a BentoML service."""


@main.command()
@click.option("--markdown", is_flag=True, help="Print the table of docs/settings.md.")
def settings(markdown: bool) -> None:
    """Every setting: variable, value, where it comes from, default, meaning."""
    if markdown:
        click.echo(_markdown(describe(Settings.from_env({}), environ={})))
        return
    head = ("VARIABLE", "VALUE", "SOURCE", "DEFAULT", "MEANING")
    rows = [
        (row.variable, row.value, row.source, row.default, row.meaning)
        for row in describe(Settings.from_env())
    ]
    click.echo(_table([head, *rows]))


@main.command("controls")
def list_controls() -> None:
    """Every control of music: name, default, values, meaning."""
    from magenta_bento import controls

    head = ("CONTROL", "DEFAULT", "VALUES", "MEANING")
    rows = [(row.name, row.default, row.values, row.meaning) for row in controls.describe()]
    click.echo(_table([head, *rows]))


@main.group()
def models() -> None:
    """The models: which are here, fetch one, check one."""


@models.command("list")
def list_models() -> None:
    """Every model, with what is missing of it, and the one that would be served."""
    current = Settings.from_env()
    try:
        served = catalog.choose(current).name
        failure = None
    except WeightsError as error:
        served, failure = None, error
    rows = [("", "MODEL", "SIZE", "STATE")]
    for name in catalog.NAMES:
        files = catalog.locate(name, current)
        size = f"{files.size_bytes / 1e6:,.1f} MB"
        rows.append(("*" if name == served else "", name, size, _state_of_files(files)))
    click.echo(_table(rows))
    click.echo(f"\nmodels are looked for in {catalog.home(current)}")
    if failure is not None:
        raise failure
    click.echo(f"* is served with MAGENTA_MODEL={current.magenta_model}")


@models.command("download")
@click.argument("name", type=click.Choice(catalog.TRAINED))
def download_model(name: str) -> None:
    """Fetch a model from the Hugging Face hub; an interrupted download continues."""
    from magenta_bento.weights.download import download

    files = download(name, Settings.from_env(), say=click.echo)
    click.echo(f"{name} is complete: {files.size_bytes / 1e6:,.1f} MB")


@models.command("pack")
@click.argument("name", type=click.Choice(catalog.TRAINED))
def pack_model(name: str) -> None:
    """Copy a model into BentoML's store, for Bentos that are to include it."""
    from magenta_bento.weights.packed import pack

    tag = pack(catalog.locate(name, Settings.from_env()), say=click.echo)
    click.echo(f"packed as {tag}; build a Bento with it: MAGENTA_MODEL={name} bentoml build")


@models.command("verify")
@click.argument("name", type=click.Choice(catalog.NAMES))
def verify_model(name: str) -> None:
    """Check a model's files: every parameter, and the style encoder's known answers."""
    files = catalog.locate(name, Settings.from_env())
    # Shapes are only traced, which needs no GPU, and a server may be using the GPU.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from magenta_bento.model.architecture import ARCHITECTURES
    from magenta_bento.model.verify import verify

    report = verify(files, ARCHITECTURES[name])
    for line in (*report.problems, *report.remarks):
        click.echo(line)
    if not report.ok:
        count = len(report.problems)
        raise WeightsError(
            f"{name} has {count} problem{'s' if count > 1 else ''}. {catalog.remedy(name)}"
        )
    click.echo(f"{name} is as it should be: {report.parameters:,} parameters")


@main.command()
@click.option("--gpu", type=options.gpu, help="l4, a100-40, a100-80 or h200: of each server …")
@click.option("--model", type=click.Choice(catalog.TRAINED), help="… and what it plays; or else:")
@click.option(
    "--measured-frame-ms",
    type=options.FiniteFloatRange(min=0, max=10_000, min_open=True),
    help="Time of a frame that you have measured with all --slots taken.",
)
@click.option("--slots", type=click.IntRange(1, 1024), help="MAX_STREAMS.  [default: the GPU's]")
@click.option(
    "--arrivals", type=options.rate, default="0/s", help="Pieces asked for: 2/s, 120/min, 9/h."
)
@click.option(
    "--seconds",
    type=options.FiniteFloatRange(min=0, max=3_600, min_open=True),
    default=30.0,
    show_default=True,
    help="Length of a piece.",
)
@click.option("--live", type=click.IntRange(0, 100_000), default=0, help="Live sessions at once.")
@click.option(
    "--wait",
    type=options.FiniteFloatRange(min=0, max=3_600),
    default=5.0,
    show_default=True,
    help="Longest wait for a slot, seconds …",
)
@click.option(
    "--quantile",
    type=options.FiniteFloatRange(min=0, max=1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="… of this share of all pieces.",
)
@click.option(
    "--utilisation",
    type=options.FiniteFloatRange(min=0, max=1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="Largest share of a server's speed to be used.",
)
@click.option("--frames-per-step", type=click.IntRange(1, 50), default=5, show_default=True)
@click.option("--max-queue", type=click.IntRange(1, 10_000), default=64, show_default=True)
@click.option(
    "--price-per-hour",
    type=options.FiniteFloatRange(min=0, max=1e6),
    help="Of one server, in any currency.",
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def plan(
    gpu: Gpu | None,
    model: str | None,
    measured_frame_ms: float | None,
    slots: int | None,
    arrivals: float,
    seconds: float,
    live: int,
    wait: float,
    quantile: float,
    utilisation: float,
    frames_per_step: int,
    max_queue: int,
    price_per_hour: float | None,
    as_json: bool,
) -> None:
    """How many servers a demand needs, and what binds: docs/capacity.md."""
    from magenta_bento.planning.case import Case
    from magenta_bento.planning.fleet import Demand, Target
    from magenta_bento.planning.report import Report

    report = Report(
        Case(
            device=_device(gpu, model, measured_frame_ms, slots),
            frames_per_step=frames_per_step,
            queue_bound=max_queue,
            demand=Demand(arrivals, seconds, live),
            target=Target(wait, quantile, utilisation),
            price_per_hour=price_per_hour,
        )
    )
    click.echo(json.dumps(report.as_json, indent=2) if as_json else report.text(_table))


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("--host", default=None, help="Address to listen on.  [default: BentoML's]")
@click.option("--tls", is_flag=True, help="Serve TLS with a certificate made for this machine.")
def serve(port: int, host: str | None, tls: bool) -> None:
    """Check the settings, the keys and the model's files, then serve."""
    from magenta_bento.access.access_control import key_ring

    current = Settings.from_env()
    key_ring(current)  # so that an error about keys is printed here, not in a worker's log
    files = catalog.choose(current)
    click.echo(f"serving {files.name} from {files.checkpoint}")
    if files.name == catalog.DEMO:
        click.echo(
            "the demo is a toy; for Magenta's music: magenta-bento models download mrt2_small"
        )
    command = [sys.executable, "-m", "bentoml", "serve", "service:MagentaBento"]
    command += ["--port", str(port)]
    if host is not None:
        command += ["--host", host]
    if tls:
        command += _tls_options(current, port)
    os.environ.setdefault("PUBLIC_URL", f"http{'s' if tls else ''}://localhost:{port}")
    sys.stdout.flush()
    # This process becomes BentoML's, so that BentoML gets its signals and sets the exit code.
    os.execvp(sys.executable, command)  # noqa: S606  # no shell: a list, and our own python


def _device(
    gpu: Gpu | None, model: str | None, measured_frame_ms: float | None, slots: int | None
) -> ComputedDevice | MeasuredDevice:
    """The device that the options of ``plan`` describe.

    Raises:
      UsageError: The options describe no device, two devices, or one incompletely.
    """
    from magenta_bento.planning.case import ComputedDevice, MeasuredDevice
    from magenta_bento.planning.workload import WORKLOADS

    if measured_frame_ms is not None:
        if gpu is not None or model is not None:
            raise click.UsageError("--measured-frame-ms takes the place of --gpu and --model")
        if slots is None:
            raise click.UsageError("--measured-frame-ms needs --slots, with which it was measured")
        return MeasuredDevice(measured_frame_ms / 1e3, slots)
    if gpu is None or model is None:
        raise click.UsageError("give --gpu and --model, or --measured-frame-ms and --slots")
    return ComputedDevice(gpu, WORKLOADS[model], slots)


def _tls_options(current: Settings, port: int) -> list[str]:
    """BentoML's options for TLS; prints what a Python client has to set."""
    from magenta_bento.tls import local_pair

    pair = local_pair(current.tls_dir)
    click.echo(
        "a Python client of Lyria RealTime needs these two lines:\n"
        f"  export SSL_CERT_FILE={pair.certificate}\n"
        f"  genai.Client(api_key='any', http_options={{'base_url': 'https://localhost:{port}'}})"
    )
    return ["--ssl-certfile", str(pair.certificate), "--ssl-keyfile", str(pair.key)]


def _state_of_files(files: catalog.ModelFiles) -> str:
    """ "complete", or each fault with the names of the files that have it."""
    names: dict[str, list[str]] = {}
    for path, fault in files.faults().items():
        names.setdefault(fault, []).append(path.name)
    return "; ".join(f"{fault}: {', '.join(all_)}" for fault, all_ in names.items()) or "complete"


def _markdown(rows: Sequence[SettingDescription]) -> str:
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    lines += [f"| `{row.variable}` | `{row.default}` | {row.meaning} |" for row in rows]
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells as text, each column as wide as its widest cell, no spaces at the end."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
