"""The table of methods: every method over every transport, and the checks that all of them share."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest

from max import Project
from max.errors import MaxError, UnknownName, UsageError
from max.serve.client import Client
from max.serve.method import Method
from max.serve.methods import METHODS, Methods, find_method
from max.serve.streams import End, Stream
from tests.serve.alike import same
from tests.serve.transports import PROMPTING, TRANSPORTS, Transport

ACME, USER, TASK = "acme:default", "AcmeUser", "AcmeTask"

REQUEST = {"installation": "acme:default", "command": "pause"}

FIRST = "the first sync"  # in place of its id, which is known when the project is there

# The example calls of each method: arguments by name.  They run in this order on one project that has
# synced ``acme:default``; so what a call needs is done above it.  One that fails is an example, too.
EXAMPLES: list[tuple[str, dict[str, Any]]] = [
    ("installations", {}),
    ("problems", {}),
    ("installation", {"installation": "acme"}),
    ("installation", {"installation": "nowhere"}),
    ("schema", {"installation": ACME}),
    ("search", {"installation": ACME, "entity": USER, "where": "active = true", "order_by": "-name"}),
    ("search", {"installation": ACME, "entity": TASK, "fields": ["title"], "limit": 2}),
    ("search", {"installation": ACME, "entity": TASK, "where": ["status = todo", "title ~= the"]}),
    ("search", {"installation": ACME, "entity": TASK, "where": "status = "}),
    ("search", {"installation": ACME, "entity": TASK, "after": "x"}),
    ("search", {"installation": ACME, "entity": "AcmeTusk"}),
    ("rows", {"installation": ACME, "entity": TASK, "columns": "title,assignee.name", "limit": 3}),
    ("get", {"installation": ACME, "entity": USER, "id": "w1-u1"}),
    ("get", {"installation": ACME, "entity": USER, "id": "w1-u1", "fields": "name"}),
    ("get", {"installation": ACME, "entity": USER, "id": "\U0001f600\0"}),
    ("count", {"installation": ACME, "entity": USER}),
    ("count_by", {"installation": ACME, "entity": TASK, "by": "assignee,due_date:month", "max": "title"}),
    ("values", {"installation": ACME, "entity": TASK, "field": "status", "limit": 3}),
    ("find", {"text": "login page", "entities": [TASK], "limit": 5}),
    ("find", {"text": "!"}),
    ("sql", {"statement": "SELECT 1.5, x'00ff', NULL, ?, 9e999", "parameters": ["a"]}),
    ("sql", {"statement": "SELECT"}),
    ("sql", {"statement": "SELECT 1", "timeout": 0}),
    ("change_settings", {"installation": ACME, "settings": {"history_days": 7}}),
    ("change_settings", {"installation": ACME, "settings": {"history_days": "x"}}),
    ("invalidate", {"installation": ACME, "what": [f"{USER}.email", f"{TASK}:w1-p1-t1"]}),
    ("sync", {"installation": ACME, "only": [f"{USER}.email"]}),
    ("sync", {"installation": ACME, "only": ["Nothing"]}),
    ("ping", {}),
    ("warm", {"installation": ACME}),
    ("check_connection", {"installation": ACME}),
    ("begin_sync", {"installation": ACME, "only": [f"{USER}.name"]}),
    ("follow", {"installation": ACME}),
    ("follow", {"installation": ACME, "progress": True}),
    ("follow", {"installation": ACME, "sync": "none"}),
    ("retry_failed", {"installation": ACME}),
    ("request", {"installation": ACME, "command": "pause"}),
    ("changes", {"installation": ACME, "since": "beginning", "limit": 5}),
    ("changes", {"installation": ACME, "since": "x"}),
    ("change_summary", {"installation": ACME, "since": "2d"}),
    ("freshness", {"installation": ACME, "what": USER}),
    ("quarantine", {"installation": ACME}),
    ("state", {"installation": ACME}),
    ("runs", {"installation": ACME, "limit": 2}),
    ("run", {"installation": ACME, "sync": FIRST}),
    ("run", {"installation": ACME, "sync": "none"}),
    ("connect", {"connector": "acme", "name": "second", "config": {"users": 3}, "secrets": {"token": "t"}}),
    ("connect", {"connector": "acme", "name": "third", "config": {"users": "many"}}),
    ("runtimes", {}),
    ("schedule", {"installation": ACME, "every": "15m"}),
    ("schedule", {"installation": ACME, "every": "a while"}),
    ("schedules", {}),
    ("switch_schedules", {"installation": ACME, "on": False}),
    ("unschedule", {"installation": ACME}),
    ("receive_hook", {"installation": ACME, "headers": {"x-signature": "no"}, "body": "e30="}),
    ("process_hooks", {"installation": ACME}),
    ("events", {"installation": ACME, "after": "beginning", "once": True}),
    ("events", {"installation": ACME, "after": "x", "once": True}),
    ("health", {}),
    ("audit", {"limit": 5}),
    ("check_audit", {}),
    ("command", {"words": ["ls"], "folder": ".", "columns": [-1, -1], "variables": {}, "likeness": []}),
    ("disconnect", {"installation": "acme:second", "keep_data": True}),
    ("disconnect", {"installation": "acme:second"}),
]


def examples_in(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """The examples with the id of the first sync of a project."""
    with Project.find(folder).read(ACME) as reader:
        first = reader.runs()[-1].id
    filled = {FIRST: first}
    return [
        (name, {key: filled.get(str(value), value) for key, value in given.items()})
        for name, given in EXAMPLES
    ]


class Witness(Methods):
    """Methods that remember what they answered, so that a transport's answer can be compared with it."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.answers: list[Any] = []  # results, errors, and the items of streams, as they left

    def _answer(self, method: Method, arguments: dict[str, Any]) -> Any:
        try:
            answer = super()._answer(method, arguments)
        except MaxError as error:
            self.answers.append(error)
            raise
        return Stream(self._items(answer)) if isinstance(answer, Stream) else self._result(answer)

    async def _result(self, answer: Awaitable[Any]) -> Any:
        try:
            self.answers.append(await answer)
        except MaxError as error:
            self.answers.append(error)
            raise
        return self.answers[-1]

    async def _items(self, answer: Stream[Any, Any]) -> AsyncGenerator[Any, None]:
        try:
            async for item in answer:
                self.answers.append(item)
                yield item
            self.answers.append(await answer.result())
        except MaxError as error:
            self.answers.append(error)
            raise
        yield End(self.answers[-1])


async def ask(methods: Methods, name: str, arguments: Mapping[str, Any]) -> list[Any]:
    """The items of a call and its result, or its error."""
    found: list[Any] = []
    try:
        answer = getattr(methods, name)(**arguments)
        if isinstance(answer, Stream):
            async with aclosing(answer):
                async for item in answer:
                    found.append(item)
                found.append(await answer.result())
        else:
            found.append(await answer)
    except MaxError as error:
        found.append(error)
    return found


@pytest.fixture(scope="module")
def copies(synced: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes copies of a synced project."""
    folder, number = tmp_path_factory.mktemp("m"), iter(range(100))
    return lambda: Path(shutil.copytree(synced, folder / str(next(number))))


@asynccontextmanager
async def witness(folder: Path) -> AsyncIterator[Witness]:
    """The methods of a project."""
    async with Project.open(folder, trusted=True) as project:
        yield Witness(project)


class TestEveryMethodOverEveryTransport:
    """P18: what the direct call returns, every transport returns."""

    @pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
    def test_p18_every_answer_is_what_the_direct_call_gives(
        self, transport: Transport, copies: Callable[[], Path]
    ) -> None:
        async def run() -> None:
            folder = copies()
            async with witness(folder) as direct, transport(direct, folder) as asked:
                for name, arguments in examples_in(folder):
                    if METHODS[name].local and transport is TRANSPORTS["http"]:
                        continue  # it is not asked there
                    direct.answers.clear()
                    found = await ask(asked, name, arguments)
                    assert found, name
                    assert same(direct.answers, found), (name, arguments)

        asyncio.run(run())

    def test_every_method_has_an_example(self) -> None:
        assert METHODS.keys() - {name for name, _ in EXAMPLES} == set()

    def test_every_example_that_is_meant_to_work_works(self, copies: Callable[[], Path]) -> None:
        async def run() -> dict[str, bool]:
            worked: dict[str, bool] = dict.fromkeys(METHODS, False)
            folder = copies()
            async with witness(folder) as methods:
                for name, arguments in examples_in(folder):
                    last = (await ask(methods, name, arguments))[-1]
                    worked[name] = worked[name] or not isinstance(last, MaxError)
            return worked

        failed = [name for name, fine in asyncio.run(run()).items() if not fine]
        # nothing had failed, nothing was running, and no hook was signed
        assert failed == ["retry_failed", "request", "receive_hook", "command"]


class Recorder:
    """The connection of a Client that keeps what was asked, and answers null."""

    version = "1"

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def call(
        self, name: str, params: Mapping[str, Any], prompter: object, *, changes: bool
    ) -> AsyncIterator[Any]:
        assert changes is not METHODS[name].reads
        self.asked.append((name, params))
        yield "result", None


class TestTheClient:
    """P4 and P38: the client has every method."""

    @pytest.mark.parametrize("name", METHODS)
    def test_p4_every_method_exists_on_the_client_with_the_same_signature_and_is_sent(
        self, name: str
    ) -> None:
        own, client = getattr(Methods, name), getattr(Client, name)
        assert inspect.signature(client) == inspect.signature(own)
        assert client.__doc__ == own.__doc__
        recorder, example = Recorder(), next(given for one, given in EXAMPLES if one == name)
        asyncio.run(ask(Client(recorder), name, example))  # type: ignore[arg-type]  # has its methods
        assert recorder.asked == [(name, example)]

    def test_p4_no_method_of_the_table_is_answered_by_the_client_itself(self) -> None:
        assert METHODS.keys() & vars(Client).keys() == set()


class Locking(Methods):
    """Methods of which none does anything; behind that the audit's row must wait for ``lock``."""

    def __init__(self, project: Project[Any], audit: Path) -> None:
        super().__init__(project)
        self.audit_file, self.done = audit, asyncio.Event()

    async def _written(self, method: Method, arguments: dict[str, Any]) -> Any:
        self.lock = sqlite3.connect(self.audit_file, isolation_level=None)
        self.lock.execute("BEGIN IMMEDIATE")
        self.done.set()
        return "done"


def test_what_was_done_is_answered_though_the_call_was_cancelled_before_its_row_was_written(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with Project.open(tmp_path, create=True) as project:
            methods = Locking(project, tmp_path / ".max" / "audit.db")
            call = asyncio.create_task(methods.answer("request", REQUEST))
            await methods.done.wait()
            call.cancel()
            try:
                assert await call == "done"
            finally:
                methods.lock.close()
            async with asyncio.timeout(240):
                while len(rows := await project.audit()) < 2:  # noqa: ASYNC110 - a thread writes it
                    await asyncio.sleep(0.001)
            assert [(one.action, one.outcome) for one in rows] == [("init", "done"), ("request", "done")]

    asyncio.run(run())


class TestTheTable:
    """What is derived from the class."""

    def test_it_has_every_public_method_that_reads_or_writes_and_nothing_else(self) -> None:
        public = {name for name, one in vars(Methods).items() if not name.startswith("_") and callable(one)}
        assert METHODS.keys() == public - {"answer"}

    @pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
    def test_it_describes_each_method_and_each_of_its_parameters(self, method: Method) -> None:
        described = method.to_json()
        assert described["about"].endswith(".")
        assert described["result"]
        for name, one in method.parameters.items():
            assert one.about, name
            schema = one.to_json()
            jsonschema.Draft202012Validator.check_schema(schema)
            if one.default is not None:
                jsonschema.validate(one.default, schema)
            elif not one.required and one.kinds:
                assert "null" in one.kinds, name

    @pytest.mark.parametrize(("name", "given"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
    def test_its_schemas_allow_the_examples_and_its_checks_too(
        self, name: str, given: dict[str, Any]
    ) -> None:
        method = METHODS[name]
        jsonschema.validate(given, method.to_json()["parameters"])
        assert method.read(given) == given

    def test_an_unknown_method_suggests_the_nearest(self) -> None:
        with pytest.raises(UnknownName, match="unknown method 'serch'") as raised:
            find_method("serch")
        assert "search" in raised.value.candidates


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("search", {"entity": 7}, "'entity' is a text, not 7"),
    ("search", {"entity": None}, "'entity' is a text, not None"),
    ("get", {"id": "\ud83d"}, "'id' holds half a character"),
    ("search", {"limit": 2**63}, "'limit' is"),
    ("search", {"limit": True}, "'limit' is a whole number, not True"),
    ("search", {"limit": -1}, "'limit' is from 0 to"),
    ("search", {"where": ["a", 1]}, "'where' is a text or a list of texts or null, not"),
    ("sync", {"full": "yes"}, "'full' is true or false, not 'yes'"),
    ("sync", {"if_stale": "1h"}, "'if_stale' is a number or null, not '1h'"),
    ("change_settings", {"settings": []}, "'settings' is an object, not"),
    ("change_settings", {"settings": {1: 2}}, "'settings' is an object, not"),
    ("request", {"command": "halt"}, "unknown command 'halt'"),
    ("find", {"installations": "acme"}, "'installations' is a list of texts, not 'acme'"),
]


class TestArguments:
    """What is wrong with a call, in the same words wherever it comes from."""

    @pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
    def test_a_wrong_argument_is_a_usage_error_with_the_same_words_on_every_transport(
        self, transport: Transport, synced: Path, tmp_path: Path
    ) -> None:
        async def run() -> None:
            async with witness(synced) as methods, transport(methods, tmp_path) as asked:
                for name, wrong, words in WRONG:
                    example = next(given for one, given in EXAMPLES if one == name)
                    (error,) = await ask(asked, name, {**example, **wrong})
                    assert isinstance(error, UsageError)
                    assert words in error.message
                assert methods.answers == []

        asyncio.run(run())

    def test_a_missing_or_unknown_one_is_named_with_what_it_is_for(self) -> None:
        with pytest.raises(UsageError, match="search needs 'entity'") as raised:
            METHODS["search"].read({"installation": ACME})
        assert "AcmeTask" in raised.value.hint
        with pytest.raises(UnknownName, match="unknown argument 'entitty' in search"):
            METHODS["search"].read({"installation": ACME, "entity": USER, "entitty": 1})

    def test_null_for_one_that_has_a_default_means_the_default(self) -> None:
        given = {"installation": ACME, "entity": USER, "limit": None, "where": None}
        assert METHODS["search"].read(given) == {"installation": ACME, "entity": USER, "where": None}

    def test_python_itself_refuses_one_that_the_signature_does_not_have(self) -> None:
        client: Any = Client(Recorder())  # type: ignore[arg-type]  # has its methods
        with pytest.raises(TypeError, match="unexpected keyword argument 'entitty'"):
            asyncio.run(client.search(ACME, USER, entitty=1))


class Person:
    """A Prompter whose answers are known in advance."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.seen = list(answers), list[Any]()

    async def text(self, prompt: str, default: str | None) -> str:
        self.seen.append(("text", prompt, default))
        return str(self.answers.pop(0))

    async def secret(self, prompt: str) -> str:
        self.seen.append(("secret", prompt))
        return str(self.answers.pop(0))

    async def choose(self, prompt: str, options: Sequence[tuple[str, str]], several: bool) -> Sequence[str]:
        self.seen.append(("choose", prompt, [*options], several))
        return [str(self.answers.pop(0))]

    async def confirm(self, prompt: str) -> bool:
        self.seen.append(("confirm", prompt))
        return bool(self.answers.pop(0))

    def say(self, line: str) -> None:
        self.seen.append(("say", line))


class Questions(Methods):
    """Methods whose ``connect`` asks one question of each kind."""

    def _answer(self, method: Method, arguments: dict[str, Any]) -> Any:
        return self._ask(arguments["prompter"])

    async def _ask(self, prompter: Any) -> list[Any]:
        prompter.say("first")
        found = [await prompter.text("name?", None), await prompter.secret("token?")]
        prompter.say("second")
        found += [await prompter.choose("which?", [("a", "A"), ("b", "B")], several=True)]
        return [*found, await prompter.confirm("sure?")]


class TestPrompts:
    """Questions cross the connection, and their answers come back."""

    @pytest.mark.parametrize("transport", PROMPTING.values(), ids=PROMPTING)
    def test_every_kind_of_question_reaches_the_person_and_is_answered(
        self, transport: Transport, tmp_path: Path
    ) -> None:
        person = Person("Ada", "s3cret", "b", True)

        async def run() -> Any:
            answering = Questions(None)  # type: ignore[arg-type]  # it asks no project
            async with transport(answering, tmp_path) as asked:
                return await asked.connect("acme", prompter=person)

        assert asyncio.run(run()) == ["Ada", "s3cret", ["b"], True]
        assert person.seen == [
            ("say", "first"),
            ("text", "name?", None),
            ("secret", "token?"),
            ("say", "second"),
            ("choose", "which?", [("a", "A"), ("b", "B")], True),
            ("confirm", "sure?"),
        ]

    @pytest.mark.parametrize("transport", PROMPTING.values(), ids=PROMPTING)
    def test_a_person_who_interrupts_ends_the_call_on_both_sides(
        self, transport: Transport, tmp_path: Path
    ) -> None:
        class Leaving(Person):
            async def secret(self, prompt: str) -> str:
                raise KeyError("ctrl-c")

        async def run() -> None:
            answering = Questions(None)  # type: ignore[arg-type]  # it asks no project
            async with transport(answering, tmp_path) as asked:
                with pytest.raises(KeyError, match="ctrl-c"):
                    await asked.connect("acme", prompter=Leaving("Ada"))

        asyncio.run(run())


def test_what_a_method_may_return_is_in_the_table_of_the_wire() -> None:
    import max.serve.methods as module
    from max.serve.wire import HOMES, SPECIAL

    plain = {"Any", "list", "tuple", "str", "int", "float", "None", "Stream", "Parts", "ProjectError"}
    known = {*HOMES, *SPECIAL, *plain}
    words = {word for one in METHODS.values() for word in _names(one.result)}
    assert words - known == set()
    assert module.METHODS is METHODS


def _names(annotation: str) -> list[str]:
    return "".join(one if one.isalnum() else " " for one in annotation).split()
