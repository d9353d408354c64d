"""Prints the layers of an image in an OCI layout: what made each, and how large it is.

python deploy/image/layers.py FOLDER
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

COMMAND_CHARS = 90
CHUNK_BYTES = 1 << 20


def main(layout: Path) -> None:
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = _blob(layout, entry["digest"])
    history = _blob(layout, manifest["config"]["digest"])["history"]
    made_by = [step.get("created_by", "") for step in history if not step.get("empty_layer")]
    sizes = [
        (_unpacked_bytes(_path(layout, layer["digest"])), layer["size"])
        for layer in manifest["layers"]
    ]
    print("| Unpacked, MB | To download, MB | Made by |\n|---|---|---|")
    for command, (unpacked, packed) in zip(made_by, sizes, strict=True):
        told = command.rpartition("/bin/sh -c ")[2].removeprefix("#(nop) ")[:COMMAND_CHARS]
        print(f"| {unpacked / 1e6:,.1f} | {packed / 1e6:,.1f} | {told} |")
    unpacked, packed = (sum(column) for column in zip(*sizes, strict=True))
    print(f"| {unpacked / 1e6:,.1f} | {packed / 1e6:,.1f} | all |")


def _path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _blob(layout: Path, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_path(layout, digest).read_text())
    return found


def _unpacked_bytes(path: Path) -> int:
    with gzip.open(path) as layer:
        return sum(len(chunk) for chunk in iter(lambda: layer.read(CHUNK_BYTES), b""))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
