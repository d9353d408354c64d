"""From an upload to samples, off the event loop.

Invariant: the file that the decoder reads is gone when this returns, whatever happened.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from magenta_bento.audio.decode import Decoded, decode_upload
from magenta_bento.audio.limits import DecodeLimits
from magenta_bento.errors import InvalidInput
from magenta_bento.web.requests import Upload


def decode(upload: Upload, field: str, limits: DecodeLimits) -> Decoded:
    """The audio of an upload. Blocks; call it in a worker thread.

    Args:
      field: What the client called it, for errors.

    Raises:
      InvalidInput: It is no audio that we read, or longer than the bounds.
    """
    with tempfile.NamedTemporaryFile(prefix="magenta-bento-upload-") as named:
        shutil.copyfileobj(upload.file, named)
        named.flush()
        try:
            return decode_upload(Path(named.name), limits)
        except InvalidInput as error:
            told = type(error).field(field, error.message)
            raise told from error
