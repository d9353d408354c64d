"""The requests of the REST API, as validated frozen types.

Each is at once what is published (OpenAPI, ``/schema.json``, BentoML's Python client) and what
the service works with. ``web.request_parsing`` makes them from the bytes of a body.

Invariant: whoever holds one of these need not check it again, but for what only a setting
bounds (``MAX_DURATION``) or only decoding shows (whether an upload is audio).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

from bentoml.validators import ContentType
from pydantic import AfterValidator, Field, model_validator

from magenta_bento.audio.fades import MAX_FADE_S
from magenta_bento.audio.formats import AudioFormat, StreamFormat
from magenta_bento.config import Settings
from magenta_bento.controls import Controls, Seed
from magenta_bento.errors import InvalidInput
from magenta_bento.web.base_request import ApiRequest

MAX_PROMPT_CHARS = 1_000
MAX_TEXT_PROMPTS = 16
MAX_AUDIO_PROMPTS = 8
MAX_WEIGHT = 1_000.0


class Pace(StrEnum):
    """How fast a stream is sent."""

    realtime = "realtime"
    asap = "asap"


def _not_blank(prompt: str) -> str:
    if not prompt.strip():
        raise ValueError("must hold more than white space")
    return prompt


def _not_zero(weight: float) -> float:
    if weight == 0:
        raise ValueError("must not be 0")
    return weight


Prompt = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_PROMPT_CHARS,
        description="What the music is like.",
        examples=["funky jazz with syncopated bass"],
        # As str.strip has it: JSON Schema's \s, which is ECMAScript's, knows less white space.
        # The rest is for tools that would otherwise take it for a pattern of each character.
        json_schema_extra={"pattern": r"[^\s\x1c-\x1f\x85][\s\S]*$"},
    ),
    AfterValidator(_not_blank),
]
Weight = Annotated[
    float,
    Field(
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        allow_inf_nan=False,
        json_schema_extra={"not": {"const": 0}},
    ),
    AfterValidator(_not_zero),
]
Weights = list[Weight]
AudioFile = Annotated[Path, ContentType("audio/*")]


class TextPrompt(ApiRequest):
    prompt: Prompt


class AudioPrompt(ApiRequest):
    audio_file: AudioFile = Field(description="The audio whose style is taken.")
    prompt: Prompt | None = None
    audio_weight: Weight = Field(1.0, description="Share of the audio beside the prompt.")
    text_weight: Weight = Field(1.0, description="Share of the prompt beside the audio.")


class BlendPrompts(ApiRequest):
    one_of: ClassVar[tuple[str, ...]] = ("text_prompts", "audio_files")

    text_prompts: list[Prompt] = Field(
        default=[],
        max_length=MAX_TEXT_PROMPTS,
        description="What the music is like, several times.",
        examples=[["deep house", "solo cello"]],  # no commas: Swagger UI joins them by some
    )
    text_weights: Weights = Field(
        default=[],
        description="One for each text prompt; 1 if absent.",
        examples=[[2.0, 1.0]],
        json_schema_extra={"maxItems": MAX_TEXT_PROMPTS},  # not checked: the counts must match
    )
    audio_files: list[AudioFile] = Field(
        default=[], max_length=MAX_AUDIO_PROMPTS, description="Audio prompts."
    )
    audio_weights: Weights = Field(
        default=[],
        description="One for each audio file; 1 if absent.",
        examples=[[]],
        json_schema_extra={"maxItems": MAX_AUDIO_PROMPTS},
    )

    @model_validator(mode="after")
    def _counts_match(self) -> BlendPrompts:
        if not any(getattr(self, name) for name in self.one_of):
            raise ValueError(f"{' or '.join(self.one_of)} must hold at least one prompt")
        for weights, prompts in (
            ("text_weights", "text_prompts"),
            ("audio_weights", "audio_files"),
        ):
            weight_count, prompt_count = len(getattr(self, weights)), len(getattr(self, prompts))
            if weight_count not in (0, prompt_count):
                raise InvalidInput.field(
                    weights,
                    f"must be one for each of the {prompt_count} {prompts}",
                    f"{weight_count} weights",
                )
        return self


class SamplingRequest(ApiRequest, Controls):
    """What a request for music may say beside its prompts."""

    seed: Seed | None = Field(
        default=None,
        examples=[42],
        description="The same request with the same seed gives the same music; random if absent.",
    )


class GenerationRequest(SamplingRequest):
    """A finished piece."""

    duration: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds of music, up to MAX_DURATION; rounded up to whole 40 ms frames.",
    )
    format: AudioFormat = Field(AudioFormat.mp3, description="The file format of the answer.")
    fade_in: float = Field(
        0.0,
        ge=0,
        le=MAX_FADE_S,
        allow_inf_nan=False,
        description="Seconds over which the level rises from silence, at most the whole piece.",
    )
    fade_out: float = Field(
        0.0,
        ge=0,
        le=MAX_FADE_S,
        allow_inf_nan=False,
        description="Seconds over which the level falls to silence, at most the whole piece.",
    )

    @classmethod
    def max_values(cls, settings: Settings) -> dict[str, float]:
        return {"duration": settings.max_duration}

    @property
    def seconds(self) -> float:
        """How long the music is to be."""
        return self.duration


class StreamRequest(SamplingRequest):
    """Music that is sent while it is made."""

    duration: float = Field(
        10.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds of music, up to MAX_STREAM_DURATION; 0 plays until you leave.",
    )
    format: StreamFormat = Field(
        StreamFormat.mp3, description="ogg holds Opus; pcm is raw s16le, 48 kHz, stereo."
    )
    pace: Pace | None = Field(
        None,
        description="realtime stays about 2 s ahead of playback, asap sends what there is;"
        " asap if absent, realtime for duration 0.",
    )

    @classmethod
    def max_values(cls, settings: Settings) -> dict[str, float]:
        return {"duration": settings.max_stream_duration}

    @property
    def seconds(self) -> float | None:
        """How long the music is to be; None until the client leaves, which is sent as 0."""
        return None if self.duration == 0 else self.duration

    @property
    def in_real_time(self) -> bool:
        return self.pace is Pace.realtime or (self.pace is None and self.seconds is None)


class TextRequest(TextPrompt, GenerationRequest):
    """POST /generate/text"""


class AudioRequest(AudioPrompt, GenerationRequest):
    """POST /generate/audio"""


class BlendRequest(BlendPrompts, GenerationRequest):
    """POST /generate/blend"""


class StreamTextRequest(TextPrompt, StreamRequest):
    """POST and GET /stream/text"""


class StreamAudioRequest(AudioPrompt, StreamRequest):
    """POST /stream/audio"""


class StreamBlendRequest(BlendPrompts, StreamRequest):
    """POST and GET /stream/blend"""


class EmbedTextRequest(ApiRequest):
    prompt: Prompt
    use_mapper: bool = Field(
        False, description="Map the embedding into audio space, as generation does."
    )


class EmbedAudioRequest(ApiRequest):
    audio_file: AudioFile = Field(description="The audio to embed.")
