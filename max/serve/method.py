"""One method of the table: what follows from a function that is declared with ``@reads`` or ``@writes``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

from ..model.values import Json
from .arguments import Parameter, check_names, input_schema

F = TypeVar("F", bound=Callable[..., Any])
PROMPTER = "prompter"  # the parameter through which a method asks a person


class Method:
    """One method: what it is called, takes and returns."""

    local = False  # whether it is for clients on this machine alone

    def __init__(self, function: Callable[..., Any], *, reads: bool) -> None:
        self.function, self.reads = function, reads
        self.name = function.__name__

    def __repr__(self) -> str:
        return f"Method({self.name})"

    @property
    def about(self) -> str:
        """What it does, in its docstring's words."""
        return inspect.getdoc(self.function) or ""

    @property
    def result(self) -> str:
        """The type of the result, as it is written; of a stream that of its items and its end."""
        return str(self.function.__annotations__["return"])

    @property
    def streams(self) -> bool:
        """Whether its answer comes in parts."""
        return self.result.startswith("Stream[")

    @property
    def prompts(self) -> bool:
        """Whether it may ask a person."""
        return PROMPTER in self._signature.parameters

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """Each parameter but the prompter, in order."""
        names = vars(sys.modules[self.function.__module__])
        found = {}
        for name, one in [*self._signature.parameters.items()][1:]:
            if name != PROMPTER:
                hint = eval(str(one.annotation), names)  # noqa: S307 - the text of our own source
                required = one.default is inspect.Parameter.empty
                found[name] = parameter_of(hint, required=required, default=None if required else one.default)
        return found

    def to_json(self) -> dict[str, Json]:
        """The method as data: its parameters as a JSON schema."""
        return {
            "name": self.name,
            "about": self.about,
            "parameters": input_schema(self.parameters),
            "result": self.result,
            "reads": self.reads,
            "streams": self.streams,
            "prompts": self.prompts,
            "local": self.local,
        }

    def read(self, given: Mapping[str, Json]) -> dict[str, Any]:
        """The arguments of a call; UsageError for one that is unknown, missing or cannot be meant."""
        check_names(self.name, self.parameters, given)
        found = {}
        for name, value in given.items():
            known = self.parameters[name]
            if value is not None or "null" in known.kinds:
                found[name] = known.check(name, value)
        return found

    def bind(self, arguments: Sequence[object], named: Mapping[str, object]) -> dict[str, Any]:
        """The arguments of a call in Python, by name; TypeError as Python says it."""
        bound = self._signature.bind(None, *arguments, **named).arguments
        return dict([*bound.items()][1:])


def parameter_of(hint: Any, *, required: bool = False, default: Json = None) -> Parameter:
    """The parameter that an annotation describes: ``Annotated[str | None, "what it is for"]``."""
    about = ""
    bounds: Mapping[str, int] = {}
    if get_origin(hint) is Annotated:
        hint, about, *more = get_args(hint)
        bounds = more[0] if more else {}
    options = get_args(hint) if not _is_one(hint) else (hint,)
    kinds: dict[str, None] = {}
    items, choices = "", ()
    for one in options:
        origin = get_origin(one) or one
        if origin is Literal:
            kinds["string"], choices = None, get_args(one)
        elif origin is Any:
            return Parameter("", about, required, default)
        else:
            kinds[JSON_KINDS[origin]] = None
            if origin is Sequence and get_args(one) != (Any,):
                items = JSON_KINDS[get_args(one)[0]]
    plain = [*default] if isinstance(default, tuple) else default
    return Parameter("|".join(kinds), about, required, plain, items=items, choices=choices, **bounds)


def _is_one(hint: Any) -> bool:
    origin = get_origin(hint)
    return origin is None or origin in (Literal, Sequence, Mapping)


JSON_KINDS: Mapping[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    Sequence: "array",
    Mapping: "object",
    type(None): "null",
}


def reads(function: F) -> F:
    """A method that changes nothing."""
    return cast(F, _declared(Method(function, reads=True)))


def writes(function: F) -> F:
    """A method that may change something."""
    return cast(F, _declared(Method(function, reads=False)))


def local(function: F) -> F:
    """A method for clients on this machine alone: it is on the socket, and not on HTTP."""
    method: Method = function.method  # type: ignore[attr-defined]
    method.local = True
    return function


def _declared(method: Method) -> Any:
    """The method as its callers see it: the arguments are checked, then it is answered."""

    def arguments(given: Sequence[object], named: Mapping[str, object]) -> dict[str, Any]:
        bound = method.bind(given, named)
        asked = {name: bound.pop(name) for name in [PROMPTER] if name in bound}
        return {**{n: method.parameters[n].check(n, one) for n, one in bound.items()}, **asked}

    if method.streams:

        @wraps(method.function)
        def stream(self: Any, *given: object, **named: object) -> Any:
            return self._call(method, arguments(given, named))

        stream.method = method  # type: ignore[attr-defined]  # read by METHODS
        return stream

    @wraps(method.function)
    async def call(self: Any, *given: object, **named: object) -> Any:
        return await self._call(method, arguments(given, named))

    call.method = method  # type: ignore[attr-defined]  # read by METHODS
    return call
