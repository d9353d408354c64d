"""The generated parts of the documents, made from the code.

A generated part stands between two comments:

    <!-- generated: TABLE ARGUMENT… -->
    …
    <!-- end generated -->

The first comment names one of ``tables.TABLES`` and its arguments.

Invariant: no field, setting, metric, error, header or option is named in this package. All are
found by reflection, so that a new one appears in the documents when they are generated again.
"""

from __future__ import annotations

import re

from tools.docs.tables import TABLES

_PART = re.compile(
    r"^<!-- generated: (?P<table>\S+)(?P<arguments>[^\n]*?) -->\n.*?^<!-- end generated -->$",
    re.MULTILINE | re.DOTALL,
)


def regenerated(document: str) -> str:
    """A document's text with every generated part made again.

    Raises:
      KeyError: A part names a table that does not exist.
      ValueError: A part has no end.
    """
    begun, whole = document.count("<!-- generated: "), len(_PART.findall(document))
    if begun != whole:
        raise ValueError(f"{begun} generated parts begin, and {whole} are whole")

    def part(found: re.Match[str]) -> str:
        first_line = found[0].splitlines()[0]
        content = TABLES[found["table"]](*found["arguments"].split())
        return f"{first_line}\n{content}\n<!-- end generated -->"

    return _PART.sub(part, document)
