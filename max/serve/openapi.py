"""The description of the HTTP face, as OpenAPI 3.1: made from the table of methods."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

from ..model.values import Json
from .arguments import input_schema
from .http_streams import EVENTS, PLAIN, WIRE
from .method import Method
from .result_schema import ResultSchemas

TEXT = "text/plain; version=0.0.4; charset=utf-8"
ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint", "data"],
            "properties": {
                "code": {"type": "string", "description": "which error it is; it never changes"},
                "message": {"type": "string"},
                "hint": {"type": "string", "description": "what to do next, or empty"},
                "data": {"type": "object", "description": "the facts"},
            },
        }
    },
}
STREAM: Json = {
    "type": "string",
    "description": "server-sent events: the items, prompt for a question, end for the result or the error",
}
OTHER_ROUTES: Mapping[str, tuple[str, str, str]] = {  # by path: the verb, what it is, the type of its answer
    "/health": ("get", "whether the process lives; needs no token", PLAIN),
    "/ready": ("get", "whether the project can be read", PLAIN),
    "/metrics": ("get", "figures for Prometheus", TEXT),
    "/openapi.json": ("get", "this description", PLAIN),
}


def describe(methods: Iterable[Method], version: str) -> Json:
    """The description of these methods, and of the other routes."""
    paths: dict[str, Json] = {}
    results = ResultSchemas(ERROR["properties"]["error"])
    for method in methods:
        paths[f"/v1/{method.name}"] = _paths_of(method, results.of_method(method))
    for path, (verb, about, kind) in OTHER_ROUTES.items():
        operation = {
            "summary": about,
            "operationId": f"get_{path[1:].removesuffix('.json')}",
            "responses": _responses(kind),
        }
        paths[path] = {verb: {**operation, **({"security": []} if path == "/health" else {})}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Max", "version": version, "description": "A project's data, and its syncs."},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": copy.deepcopy(ERROR), **results.named},
        },
    }


def _paths_of(method: Method, result: Json) -> Json:
    first, _, rest = method.about.partition("\n")
    schema = input_schema(method.parameters)
    about = {
        "summary": first,
        "description": rest.strip() or first,
        "tags": ["read" if method.reads else "write"],
    }
    body = {"required": bool(schema["required"]), "content": {PLAIN: {"schema": schema}}}
    kinds = (EVENTS, PLAIN, WIRE) if method.streams else (PLAIN, WIRE, EVENTS)
    return {
        "post": {
            **about,
            "operationId": method.name,
            "requestBody": body,
            "responses": _responses(*kinds, result={"description": method.result, **result}),
        }
    }


def _responses(*kinds: str, result: Json = None) -> Json:
    bodies: dict[str, Json] = {EVENTS: STREAM, TEXT: {"type": "string"}}
    if result is not None:
        bodies[PLAIN] = {"type": "object", "required": ["result"], "properties": {"result": result}}
    answers = {kind: {"schema": bodies.get(kind, {"type": "object"})} for kind in kinds}
    error = {
        "description": "an error",
        "content": {PLAIN: {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    return {"200": {"description": "the answer", "content": answers}, "default": error}
