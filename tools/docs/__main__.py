"""Rewrites the generated parts of the documents: ``python -m tools.docs``."""

from __future__ import annotations

from pathlib import Path

from tools.docs import regenerated

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = (
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
)


def main() -> None:
    """Writes the documents that have changed, and names them."""
    for path in DOCUMENTS:
        before = path.read_text()
        after = regenerated(before)
        if after != before:
            path.write_text(after)
            print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
