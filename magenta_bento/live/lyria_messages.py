"""The messages of Lyria RealTime's BidiGenerateMusic, as Google's SDKs send and expect them.

Clients differ: text or binary frames, camelCase or snake_case, numbers as strings, nulls.
What the model has no input for (bpm, density, brightness, scale, muteBass,
onlyBassAndDrums, musicGenerationMode) is accepted and has no effect; what is in force is told
with every chunk of audio.

Invariant: what parses is within the protocol's bounds.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from magenta_bento.audio.formats import CHANNELS, SAMPLE_RATE_HZ
from magenta_bento.audio.pcm import Pcm, RawEncoder
from magenta_bento.controls import Controls, Drums, Seed
from magenta_bento.errors import InvalidInput, shorten

MAX_PROMPTS = 32
MAX_PROMPT_CHARS = 2_000
MIME_TYPE = f"audio/l16;rate={SAMPLE_RATE_HZ};channels={CHANNELS}"


class _Message(BaseModel):
    # Unknown fields are the SDKs' next version, not a mistake.
    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
    )


class WeightedPrompt(_Message):
    text: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    weight: float | None = 1.0

    @property
    def weight_or_default(self) -> float:
        """Null is proto3's way to say "not given"."""
        return 1.0 if self.weight is None else self.weight


class ClientContent(_Message):
    weighted_prompts: Annotated[list[WeightedPrompt], Field(max_length=MAX_PROMPTS)] | None = None


class MusicGenerationConfig(_Message):
    """What has an effect here; each message replaces all of it."""

    temperature: Annotated[float, Field(ge=0, le=3)] | None = None
    top_k: Annotated[int, Field(ge=1, le=1_000)] | None = None
    guidance: Annotated[float, Field(ge=0, le=6)] | None = None
    seed: Seed | None = Field(
        default=None,
        description="Counts from the next start or reset of the context; random if absent.",
    )
    mute_drums: bool | None = Field(
        default=None, description="true plays no drums; otherwise the model decides."
    )

    def controls(self, defaults: Controls) -> Controls:
        """The controls that this configuration asks for; those of the same name mean the same."""
        changes = self.model_dump(include=set(Controls.model_fields))
        return defaults.changed({**changes, "drums": Drums.off if self.mute_drums else Drums.auto})

    def set_fields(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, exclude_none=True)


PlaybackControl = Literal["PLAYBACK_CONTROL_UNSPECIFIED", "PLAY", "PAUSE", "STOP", "RESET_CONTEXT"]


class ClientMessage(_Message):
    """One frame from a client; exactly one of its fields is set, as a rule."""

    setup: dict[str, Any] | None = None
    client_content: ClientContent | None = None
    music_generation_config: MusicGenerationConfig | None = None
    playback_control: PlaybackControl | None = None


SETUP_COMPLETE = b'{"setupComplete": {}}'


def parsed(raw: str | bytes) -> ClientMessage:
    """A frame from a client.

    Raises:
      InvalidInput: It is not of the protocol, or out of its bounds.
    """
    try:
        return ClientMessage.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"{place}: {first['msg']}, got {shorten(first['input'])}") from None


def audio_chunk(pcm: Pcm, source: dict[str, Any]) -> bytes:
    """One chunk of audio.

    Args:
      pcm: int16 [N, 2].
      source: What it was made from.
    """
    chunk = {
        "data": base64.b64encode(RawEncoder().feed(pcm)).decode(),
        "mimeType": MIME_TYPE,
        "sourceMetadata": source,
    }
    return json.dumps({"serverContent": {"audioChunks": [chunk]}}).encode()
