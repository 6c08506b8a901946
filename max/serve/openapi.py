"""The description of the HTTP face, as OpenAPI 3.1: made from the table of methods."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import NamedTuple

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


def _parameter(place: str, name: str, schema: Json = None) -> Json:
    required = {"required": True} if place == "path" else {}
    return {"name": name, "in": place, **required, "schema": schema or {"type": "string"}}


STREAM: Json = {
    "type": "string",
    "description": "server-sent events: the items, prompt for a question, end for the result or the error",
}
MESSAGES: Json = {PLAIN: {"schema": {"type": ["object", "array"]}}}  # of MCP: one, or several
MCP: Mapping[str, Json] = {
    "requestBody": {"required": True, "content": MESSAGES},
    "responses": {
        "200": {"description": "the answer", "content": MESSAGES},
        "default": {
            "description": "an error, of MCP or of HTTP",
            "content": {PLAIN: {"schema": {"type": "object"}}},
        },
    },
}
ANY_OBJECT: Json = {"required": True, "content": {PLAIN: {"schema": {"type": "object"}}}}


class Route(NamedTuple):
    """A route beside the methods: what it is, the type of its answer, and what else OpenAPI has of it."""

    verb: str
    about: str
    kind: str = PLAIN
    more: Mapping[str, Json] = {}


OTHER_ROUTES: Mapping[str, Route] = {
    "/health": Route("get", "whether the process lives; needs no token", more={"security": []}),
    "/ready": Route("get", "whether the project can be read"),
    "/metrics": Route("get", "figures for Prometheus", TEXT),
    "/openapi.json": Route("get", "this description"),
    "/mcp": Route("post", "a message of the Model Context Protocol", more=MCP),
}
HOOKS: Mapping[str, Route] = {
    "/hooks/{installation}": Route(
        "post",
        "what a service sends by itself; its signature is checked in place of a token",
        more={"security": [], "parameters": [_parameter("path", "installation")], "requestBody": ANY_OBJECT},
    )
}


def describe(methods: Iterable[Method], version: str, *, hooks: bool = True) -> Json:
    """The description of these methods, and of the other routes; ``hooks``: whether it takes webhooks."""
    paths: dict[str, Json] = {}
    routes = {**OTHER_ROUTES, **(HOOKS if hooks else {})}
    results = ResultSchemas(ERROR["properties"]["error"])
    for method in methods:
        paths[f"/v1/{method.name}"] = _paths_of(method, results.of_method(method))
        if method.name == "events":
            schemas = input_schema(method.parameters)["properties"]
            query = [_parameter("query", name, schema) for name, schema in schemas.items()]
            routes["/events"] = Route("get", "events as they happen", EVENTS, {"parameters": query})
    for path, route in routes.items():
        name = path[1:].partition("/")[0].removesuffix(".json")
        about = {"summary": route.about, "operationId": f"{route.verb}_{name}"}
        paths[path] = {route.verb: {**about, "responses": _responses(route.kind), **route.more}}
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
