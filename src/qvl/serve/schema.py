"""The body of a chat request, as OpenAI has it. What would change the answer and isn't done here is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from qvl.generate.request import MAX_TOP_LOGPROBS
from qvl.serve.errors import ApiError

# Of OpenAI's fields: these change nothing here, whatever they say ...
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
# ... and these change nothing with one of these values.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
}
Seed = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
Number = StrictFloat | StrictInt


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Part):
    """Plain text: tags that it spells stay text."""

    type: Literal["text"]
    text: StrictStr


class ImageUrl(_Part):
    """A data URI, or an address where the server allows them. detail is ignored: every picture is read alike."""

    url: StrictStr
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Part):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class ChatMessage(_Part):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[TextPart | ImagePart]
    name: StrictStr | None = None


class StreamOptions(_Part):
    """What comes with a stream."""

    include_usage: StrictBool | None = None


class ChatRequest(BaseModel):
    """POST /v1/chat/completions. temperature is 0 where it is not given: boxes and text want the likeliest answer."""

    model_config = ConfigDict(extra="allow")

    model: StrictStr
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    n: Annotated[StrictInt, Field(ge=1)] | None = None
    seed: Seed | None = None
    stop: StrictStr | list[StrictStr] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0, le=2**31)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=10)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None


def parse_request(body: bytes) -> ChatRequest:
    """ApiError 400 that names the first field that does not fit."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(one) for one in first["loc"] if not str(one).endswith(("Part", "str", "]"))) or None
        raise ApiError(400, f"{place or 'body'}: {first['msg']}", "invalid_value", place) from None
    for name, value in (request.model_extra or {}).items():
        if name not in IGNORED and not any(value == one for one in NEUTRAL.get(name, ())):
            message = f"{name[:64]}: is not done here; leave it out"
            raise ApiError(400, message, "unsupported_parameter", name[:64])
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs = true", "invalid_value", "top_logprobs")
    return request
