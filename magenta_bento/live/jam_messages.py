"""The messages of /ws/jam, both ways.

A client sends JSON text; the server answers with JSON text and sends audio as binary.
``schema()`` publishes all of them as JSON Schema; docs/jam.md shows each byte by byte.

Invariant: a message that parses is complete and within its bounds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from magenta_bento.audio.formats import CHANNELS, FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE_HZ
from magenta_bento.controls import Controls, Seed, make_optional

MAX_PROMPT_CHARS = 1_000
MAX_PROMPTS = 16
MAX_AUDIO_CHARS = 8_000_000  # base64 of 6 MB
MAX_RAMP_S = 30.0
MAX_CHUNK_MS = 400
MIN_LEAD_MS, MAX_LEAD_MS = 120, 10_000

MAX_ID_CHARS = 64

Id = Annotated[str | None, Field(max_length=MAX_ID_CHARS, description="Comes back in the answer.")]
AnsweredId = Annotated[str | None, Field(description="The id of the message that is answered.")]
SeedIfAny = Annotated[Seed | None, Field(description="Random if absent.")]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Prompt(_Message):
    """One part of the style: a text, an uploaded audio by its id, or audio inline."""

    text: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_PROMPT_CHARS,
        description="A description of the music; more than white space.",
    )
    audio_id: str | None = Field(
        None,
        max_length=MAX_ID_CHARS,
        description="What POST /prompts/audio answered.",
    )
    audio: str | None = Field(
        None, max_length=MAX_AUDIO_CHARS, description="A whole audio file as base64."
    )
    weight: float = Field(
        1.0,
        ge=-1_000,
        le=1_000,
        description="Not 0. The sum of all weights must be above 0.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Prompt:
        given = [name for name in ("text", "audio_id", "audio") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("a prompt holds exactly one of text, audio_id and audio")
        if self.text is not None and not self.text.strip():
            raise ValueError("text must hold more than white space")
        if self.weight == 0:
            raise ValueError("weight must not be 0")
        return self


Prompts = Annotated[
    list[Prompt],
    Field(min_length=1, max_length=MAX_PROMPTS, description="What the music is like."),
]


class Start(_Message, Controls):
    """Begins to play. The first message of a connection, and again after ``stop``."""

    type: Literal["start"]
    id: Id = None
    prompts: Prompts
    seed: SeedIfAny = None
    format: Literal["pcm", "ogg"] = Field("pcm", description="pcm is s16le; ogg holds Opus.")
    chunk_ms: int = Field(
        200,
        ge=FRAME_MS,
        le=MAX_CHUNK_MS,
        multiple_of=FRAME_MS,
        description="Audio of a message; at most half of the lead.",
    )
    lead_ms: int = Field(
        2_000, ge=MIN_LEAD_MS, le=MAX_LEAD_MS, description="The most sent ahead of playback."
    )

    @model_validator(mode="after")
    def _chunks_fit(self) -> Start:
        if 2 * self.chunk_ms > self.lead_ms:
            # One chunk plays while the next is on its way, or the listener stands still.
            raise ValueError(
                f"chunk_ms must be at most half of lead_ms, got {self.chunk_ms} of {self.lead_ms}"
            )
        return self


class Update(_Message, make_optional(Controls)):  # type: ignore[misc]  # a base that is derived
    """Changes what it has and leaves the rest as it is.

    null is as if absent, but for drums and notes, which it leaves to the model.
    """

    type: Literal["update"]
    id: Id = None
    prompts: Prompts | None = None
    ramp: float = Field(
        0.0,
        ge=0,
        le=MAX_RAMP_S,
        description="Seconds over which prompts fade; 0 is a cut.",
    )

    def changes(self) -> dict[str, Any]:
        """The controls that it has, by name."""
        names = self.model_fields_set & Controls.model_fields.keys()
        return {name: getattr(self, name) for name in names}


class Pause(_Message):
    """Sends nothing until ``resume``; the music stands still meanwhile."""

    type: Literal["pause"]
    id: Id = None


class Resume(_Message):
    type: Literal["resume"]
    id: Id = None


class Reset(_Message):
    """Forgets what was played and goes on with the same settings."""

    type: Literal["reset"]
    id: Id = None
    seed: SeedIfAny = None


class Stop(_Message):
    """Ends the music; the connection stays for another ``start``."""

    type: Literal["stop"]
    id: Id = None


class Ping(_Message):
    type: Literal["ping"]
    id: Id = None


ClientMessage = Start | Update | Pause | Resume | Reset | Stop | Ping
CLIENT: TypeAdapter[ClientMessage] = TypeAdapter(
    Annotated[ClientMessage, Field(discriminator="type")]
)


class Ack(_Message):
    """A message was done; what it changed is heard from ``frame`` on."""

    type: Literal["ack"] = "ack"
    of: str = Field(description="The type of the message that is answered.")
    id: AnsweredId = None
    frame: int = Field(description="Frames of 40 ms, counted from 0 since start.")


class Started(_Message):
    """The answer to ``start``: what will come."""

    type: Literal["started"] = "started"
    id: AnsweredId = None
    frame: int = Field(default=0, description="The first frame of the new music.")
    seed: int = Field(description="The seed in use, also when none was sent.")
    model: str = Field(description="The model that plays.")
    format: str = Field(description="As asked for.")
    sample_rate: int = Field(default=SAMPLE_RATE_HZ, description="Samples per second and channel.")
    channels: int = Field(default=CHANNELS, description="Left and right.")
    frame_samples: int = Field(
        default=FRAME_SAMPLES, description="Samples of a frame, per channel."
    )
    chunk_ms: int = Field(description="As asked for.")
    lead_ms: int = Field(description="As asked for.")


class Stats(_Message):
    """How it goes, once a second."""

    type: Literal["stats"] = "stats"
    frame: int = Field(description="Frames sent so far.")
    lead_ms: int = Field(
        description="Milliseconds that were sent and are not played yet, by the server's clock."
    )
    rtf: float = Field(
        description="Seconds of music that each stream gets per second of the engine's work;"
        " below 1 the machine is too slow."
    )
    underruns: int = Field(description="How often the lead ran out since start.")
    queue: int | None = Field(description="How many are served before you; null once you play.")


class Pong(_Message):
    type: Literal["pong"] = "pong"
    id: AnsweredId = None


class Error(_Message):
    """A message could not be done; ``fatal`` ones are followed by a close."""

    type: Literal["error"] = "error"
    id: AnsweredId = None
    error: str = Field(description="One sentence for a person.")
    error_type: str = Field(description="One word for a program.")
    detail: list[dict[str, str]] = Field(default=[], description="Each field at fault.")
    fatal: bool = Field(default=False, description="Whether the connection is closed next.")


ServerMessage = Ack | Started | Stats | Pong | Error


def schema() -> dict[str, Any]:
    """JSON Schema of every message, by direction."""
    return {
        "client": CLIENT.json_schema(),
        "server": TypeAdapter(ServerMessage).json_schema(),
    }
