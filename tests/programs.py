"""Programs that some tests need, and that a developer's machine may lack."""

from __future__ import annotations

import os
import shutil

import pytest


def program(*names: str) -> str:
    """Where the first one of these names is that there is.

    Where none is, the test is skipped; with REQUIRE_ALL=1, as in ``.ci/run``, it fails.
    """
    found = next(filter(None, map(shutil.which, names)), None)
    if found is not None:
        return found
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{names[0]} is missing; .ci/run installs it")
    pytest.skip(f"{names[0]} is missing (REQUIRE_ALL=1 makes this a failure)")
