"""The answers in JSON, as models that make both the body and its schema.

The answer of ``/health`` is :class:`magenta_bento.runtime.Health`, as the runtime makes it.

Invariant: a field whose default is None is left out of the body where it has no value, and its
schema says so; any other field is always there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from magenta_bento.engine.stream import Phase
from magenta_bento.errors import ServiceError
from magenta_bento.style import CODEBOOK_SIZE, EMBEDDING_SIZE, STYLE_TOKENS, Style

MAX_PROBLEMS = 20  # an answer does not grow with what is wrong
# A request in this state has its prompts read and embedded; the phases of its stream come after.
PREPARING: Literal["preparing"] = "preparing"

_NULL = {"type": "null"}

Token = Annotated[int, Field(ge=0, lt=CODEBOOK_SIZE)]
Embedding = Annotated[list[float], Field(min_length=EMBEDDING_SIZE, max_length=EMBEDDING_SIZE)]
Shape = Annotated[list[int], Field(min_length=1, max_length=1)]
Tokens = Annotated[list[Token], Field(min_length=STYLE_TOKENS, max_length=STYLE_TOKENS)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextEmbedding(_Answer):
    """The style embedding of a text, and its tokens."""

    prompt: str
    embedding: Embedding
    shape: Shape
    tokens: Tokens


class AudioEmbedding(_Answer):
    """The style embedding of an audio file, and its tokens."""

    filename: str
    embedding: Embedding
    shape: Shape
    tokens: Tokens


def embedding_fields(style: Style) -> dict[str, Any]:
    """The fields of both kinds of embedding, from a style."""
    return {
        "embedding": style.embedding.tolist(),
        "shape": list(style.embedding.shape),
        "tokens": style.tokens.tolist(),
    }


class StoredAudioPrompt(_Answer):
    """The id, and the file it stands for."""

    audio_id: str = Field(min_length=1)
    filename: str


class RequestProgress(_Answer):
    """How far a request is."""

    id: str
    state: Literal["preparing"] | Phase
    queue_position: Annotated[int, Field(ge=0)] | None
    estimated_wait_s: Annotated[float, Field(ge=0)] | None
    audio_seconds: Annotated[float, Field(ge=0)] | None = Field(
        description="Seconds asked for; null for music without an end."
    )
    made_seconds: float = Field(ge=0)


class MessageSchemas(_Answer):
    """A JSON Schema for each direction of /ws/jam."""

    client: dict[str, Any]
    server: dict[str, Any]


class ErrorDetail(_Answer):
    """One thing wrong with one field of a request."""

    field: str
    message: str
    value: str | None = None


class Error(_Answer):
    """What every error of every route looks like."""

    error: str = Field(min_length=1, description="One sentence for a person.")
    type: str = Field(description="What kind of error; stable.")
    detail: list[ErrorDetail] = Field(max_length=MAX_PROBLEMS)

    @classmethod
    def from_service_error(cls, error: ServiceError) -> Error:
        return cls.model_validate(error.as_dict())


def body(answer: BaseModel) -> dict[str, Any]:
    """The JSON body of an answer."""
    return answer.model_dump(mode="json", exclude_defaults=True)


def schemas(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """The schemas of answers, and of what they hold, by name.

    They refer to each other as components of an OpenAPI document.
    """
    _, made = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    for schema in made["$defs"].values():
        for name, field in schema.get("properties", {}).items():
            if name not in schema.get("required", ()):
                schema["properties"][name] = _without_null(field)
    return dict(made["$defs"])


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """A field that is absent where it has no value, in place of null."""
    (option,) = (each for each in field["anyOf"] if each != _NULL)
    return {**option, **{k: v for k, v in field.items() if k not in ("anyOf", "default")}}
