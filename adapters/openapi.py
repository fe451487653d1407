"""What the engine and the gateway say of themselves at `/openapi.json`. Tests fuzz both against these documents."""

from __future__ import annotations

from typing import Any

from adapters.chat import MAX_CHOICE_CHARS, MAX_CHOICES, MAX_TOKENS, TOP_LIMIT

_ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                    },
                },
            ]
        },
    },
}
_WHOLE = {"stream": {"enum": [False, None]}, "n": {"enum": [1, None]}}  # an answer comes whole, and alone
_CHOICES = {
    "type": ["array", "null"],
    "items": {"type": "string", "minLength": 1, "maxLength": MAX_CHOICE_CHARS},
    "minItems": 1,
    "maxItems": MAX_CHOICES,
    "uniqueItems": True,
}


def _chat(messages: dict[str, Any], **options: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["model", "messages"],
        "properties": {
            "model": {"type": "string"},
            "messages": {"type": "array", "minItems": 1, **messages},
            **_WHOLE,
            **options,
        },
    }


def _number(kind: str, low: float, high: float) -> dict[str, Any]:
    return {"type": [kind, "null"], "minimum": low, "maximum": high}


_ENGINE_CHAT = _chat(
    {
        "description": "at most one system message, as the first one; the last one is the user's",
        "items": {"$ref": "#/components/schemas/Message"},
    },
    max_tokens=_number("integer", 1, MAX_TOKENS),
    max_completion_tokens=_number("integer", 1, MAX_TOKENS),
    temperature=_number("number", 0, 2),
    seed=_number("integer", -(2**62), 2**62),
    logprobs={"type": ["boolean", "null"]},
    top_logprobs=_number("integer", 0, TOP_LIMIT),
    structured_outputs={"type": ["object", "null"], "properties": {"choice": _CHOICES}},
    guided_choice=_CHOICES,
)
_USER = {"properties": {"role": {"const": "user"}}, "required": ["role"]}
_GATEWAY_CHAT = _chat(
    {
        "description": "the last user message is what is classified; all else is ignored",
        "items": {
            "type": "object",
            "required": ["role"],
            "properties": {"role": {"type": "string"}},
            "if": _USER,
            "then": {"$ref": "#/components/schemas/Message"},
        },
        "contains": _USER,
    }
)
_COMPLETION = {
    "type": "object",
    "required": ["object", "model", "choices"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "model": {"type": "string"},
        "choices": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["message"],
                "properties": {
                    "message": {
                        "type": "object",
                        "required": ["content"],
                        "properties": {"content": {"type": ["string", "null"]}},
                    }
                },
            },
        },
    },
}
_MODELS = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}},
        },
    },
}
_NAME = {"type": "string", "minLength": 1, "maxLength": 4095, "pattern": "^[^\\u0000]+$"}
_LOAD = {
    "type": "object",
    "required": ["lora_name", "lora_path"],
    "properties": {"lora_name": _NAME, "lora_path": _NAME},
}
_UNLOAD = {"type": "object", "required": ["lora_name"], "properties": {"lora_name": _NAME}}
_DONE = {
    "type": "object",
    "required": ["status", "model"],
    "properties": {"status": {"enum": ["loaded", "unloaded"]}, "model": {"type": "string"}},
}
_HEALTH = {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}}
_ANY = {"type": "object"}
_WHY = {
    400: "the request is malformed, or asks for what is not offered",
    401: "the bearer token is missing or wrong",
    403: "not allowed: a foreign site, or an adapter from a folder that is not trusted",
    404: "no such path, model, task or adapter",
    408: "the body did not arrive in time",
    413: "the body is too large",
    421: "the Host header names another server",
    429: "too many requests; Retry-After says when to come back",
    431: "the headers are too large",
    505: "another version of HTTP",
    502: "the answerer failed, did not answer in time, or answered nonsense",
    503: "the engine is not up",
}
_ALWAYS = (400, 401, 403, 421, 429, 431, 505)  # what stands before every path


def _answer(about: str, schema: str) -> dict[str, Any]:
    reference = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {"description": about, "content": {"application/json": reference}}


def _page(name: str, about: str) -> dict[str, Any]:
    """An operation that answers with text for Prometheus."""
    operation = _operation(name, about, "Any")
    operation["responses"]["200"] = {"description": about, "content": {"text/plain": {"schema": {"type": "string"}}}}
    return operation


def _operation(name: str, about: str, reply: str, *more: int, body: str = "", free: bool = False) -> dict[str, Any]:
    statuses = sorted({*_ALWAYS, *more, *((408, 413) if body else ())} - ({401} if free else set()))
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": about,
        "responses": {
            "200": _answer(about, reply),
            **{str(status): _answer(_WHY[status], "Error") for status in statuses},
        },
    }
    if body:
        reference = {"schema": {"$ref": f"#/components/schemas/{body}"}}
        operation["requestBody"] = {"required": True, "content": {"application/json": reference}}
    if free:
        operation["security"] = []
    return operation


def _document(title: str, about: str, paths: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    common = {
        "/v1/models": {"get": _operation("models", "what `model` may name", "Models")},
        "/health": {"get": _operation("health", "whether it answers; needs no token", "Health", free=True)},
        "/openapi.json": {"get": _operation("openapi", "this document", "Any")},
    }
    shared = {
        "Error": _ERROR, "Message": _MESSAGE, "Completion": _COMPLETION, "Models": _MODELS, "Health": _HEALTH,
        "Any": _ANY,
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": about},
        "security": [{"token": []}],
        "paths": {**paths, **common},
        "components": {
            "schemas": {**shared, **schemas},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


ENGINE = _document(
    "tuneloop engine",
    "One base model and its adapters; the surface is vLLM's. The base model answers to `base`.",
    {
        "/v1/chat/completions": {
            "post": _operation("chat", "an answer by the base model or an adapter", "Completion", 404, body="Chat")
        },
        "/v1/load_lora_adapter": {
            "post": _operation("load", "load an adapter from a trusted folder", "Done", 404, body="Load")
        },
        "/v1/unload_lora_adapter": {"post": _operation("unload", "remove an adapter", "Done", 404, body="Unload")},
    },
    {
        "Chat": _ENGINE_CHAT,
        "Load": _LOAD,
        "Unload": _UNLOAD,
        "Done": _DONE,
    },
)
GATEWAY = _document(
    "tuneloop gateway",
    "Production's door: `model` names a task, and the reply's `model` says which answerer it was.",
    {
        "/v1/chat/completions": {
            "post": _operation("chat", "the label of the last user message", "Completion", 404, 502, 503, body="Chat")
        },
        "/metrics": {"get": _page("metrics", "the loop and its traffic, for Prometheus")},
    },
    {"Chat": _GATEWAY_CHAT},
)
