"""A soak of the daemon: ``PYTHONPATH=connectors python -m bench.soak --seconds 600 --clients 8``.

A real daemon keeps two installations in step with services that change all the time, and a third whose
connector kills its process.  Clients ask without a pause.  In the end every question must have had its
answer, both databases must equal their sources, and the daemon must hold no more than at the beginning.

The sources keep their size: a page or a count of more rows needs more memory, and that would hide a leak or
look like one.  With ``--growing`` they grow, from 400 tasks to some 1,800 in ten minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from max_connectors.acme_service import KINDS, Server, Service, Settings

from max.errors import ConnectionLost, MaxError
from max.project import Project
from max.serve.client import Client
from max.serve.daemon_folder import DaemonFolder

from .measure import CHECKOUT

TOKEN = "soak-token"
SOURCES = ("acme:one", "acme:two")
CRASHING = "crashing:default"
SAMPLES, LINES = 400, 20  # of what the daemon holds: taken, printed
MORE = 4  # descriptors or threads that the medians may differ by: calls and syncs come and go
NEW = 60  # new tasks that a source keeps: for each further one, another is deleted
PAUSE = 0.05  # seconds between two changes of a source, and between two questions of a client
CONNECTOR = '''
"""A connector that ends its process before its second page."""

import os
from dataclasses import dataclass

from max.connecting import Connector, Entity, Env, Field, Installation, Loader, Many, Page, PageRequest, Ref
from max.connecting import CredentialProvider, Schema, Step, Store, SyncPlan


@dataclass(frozen=True)
class Nothing:
    pass


class Pit(Entity):
    things: Many["Thing"] = Many("what is in it")


class Thing(Entity):
    name: Field[str] = Field("what it is called")


@Loader.collection(Pit.things, brings=[Thing.name])
async def list_things(pit: Ref[Pit], request: PageRequest, env: Env["Nothing"]) -> Page[Thing]:
    if request.cursor:
        os._exit(7)
    return Page([Thing("1", name="one")], next="2")


async def seed(context: Nothing, store: Store) -> SyncPlan:
    await store.store(Pit("pit"))
    return SyncPlan([Step.for_root(Pit.ref("pit")).load_collection(Pit.things)])


async def initialise(config: Nothing, credentials: CredentialProvider) -> Installation[Nothing]:
    return Installation(config)


connector = Connector(
    name="crashing", description="It ends its process.", schema=Schema([Pit, Thing], roots=[Pit]),
    loaders=[list_things], seeder=seed, initialise=initialise, config=Nothing,
)
'''


class Sample(NamedTuple):
    """What a process holds: descriptors, threads, and memory in MB."""

    descriptors: int
    threads: int
    memory: float


class Tally:
    """What was asked, and what became of it."""

    def __init__(self) -> None:
        self.asked = self.answered = 0
        self.refused: Counter[str] = Counter()
        self.lost: list[str] = []

    async def ask(self, question: Callable[[], Awaitable[object]]) -> None:
        """Ask a question; an error with a code is an answer, a lost connection is none."""
        self.asked += 1
        try:
            await question()
        except ConnectionLost as error:
            self.lost.append(error.message)
        except MaxError as error:
            self.refused[error.code] += 1
            self.answered += 1
        else:
            self.answered += 1


def main(words: list[str]) -> int:
    """Run the soak; 1 when something was lost, differs or grew."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--growing", action="store_true", help="let the sources grow")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, daemon(Path(folder)) as environment:
        return asyncio.run(soak(Path(folder) / "p", environment, options))


@contextmanager
def daemon(place: Path) -> Iterator[Mapping[str, str]]:
    """A home and a project with a daemon, which ends in the end; the environment of its commands."""
    paths = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "connectors")])
    environment = {**os.environ, "MAX_HOME": str(place / "h"), "PYTHONPATH": paths, "TOKEN": TOKEN}
    os.environ["MAX_HOME"] = str(place / "h")
    project = place / "p"
    project.mkdir()
    run(project, environment, "init")
    (project / "connectors").mkdir()
    (project / "connectors" / "max_crashing.py").write_text(CONNECTOR)
    run(project, environment, "daemon", "start")
    try:
        yield environment
    finally:
        run(project, environment, "daemon", "stop")


def run(project: Path, environment: Mapping[str, str], *words: str) -> str:
    """Run a command; its output."""
    command = [sys.executable, "-m", "max", *words]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


async def soak(project: Path, environment: Mapping[str, str], options: argparse.Namespace) -> int:
    """Connect the sources, ask for so long, and judge."""
    seconds, clients = options.seconds, options.clients
    async with AsyncExitStack() as running:
        services = [Service(Settings(projects=4, tasks=50, seed=seed)) for seed in (1, 2)]
        for name, service in zip(SOURCES, services, strict=True):
            server = await running.enter_async_context(Server(service, TOKEN))
            words = ["connect", name, "--set", f"base_url={server.url}", "--credential", "token=env:TOKEN"]
            await asyncio.to_thread(run, project, environment, *words)
        await asyncio.to_thread(run, project, environment, "connect", "crashing")
        tally, samples = Tally(), list[tuple[float, Sample, Sample]]()
        until = time.monotonic() + seconds
        jobs = [change(one, until, math.inf if options.growing else NEW) for one in services]
        jobs += [syncing(project, name, tally, until) for name in (*SOURCES, CRASHING)]
        jobs += [commands(project, environment, tally, until)]
        jobs += [asking(project, random.Random(n), tally, until) for n in range(max(1, clients - 4))]
        await asyncio.gather(*jobs, watch(project, tally, samples, until, seconds))
        differences = [
            found
            for name, service in zip(SOURCES, services, strict=True)
            for found in await differing(project, name, service)
        ]
    return judge(tally, samples, differences)


# -- those who ask ---------------------------------------------------------------------------------


async def change(service: Service, until: float, most: float) -> None:
    """Change a source now and then: new tasks, other titles, tasks that are deleted.

    ``most`` is the number of new tasks that it keeps.
    """
    tenant, draw = service.tenant, random.Random(service.tenant.settings.seed)
    made: list[str] = []
    while time.monotonic() < until:
        project = f"w{draw.randint(1, 2)}-p{draw.randint(1, 4)}"
        kind = draw.random()
        if kind < 0.3:
            if len(made) >= most:
                tenant.delete(made.pop(draw.randrange(len(made))))
            made.append(tenant.create(KINDS["task"], project, {"title": f"new {tenant.position}"})["id"])
        elif kind < 0.45 and made:
            tenant.delete(made.pop(draw.randrange(len(made))))
        else:
            tenant.update(f"{project}-t{draw.randint(1, 50)}", {"title": f"changed {tenant.position}"})
        await asyncio.sleep(PAUSE)


async def syncing(project: Path, name: str, tally: Tally, until: float) -> None:
    """A client that asks for one sync after the other."""
    async with Client.at(DaemonFolder(project).socket) as client:
        while time.monotonic() < until:
            await tally.ask(lambda: client.sync(name).result())
            await asyncio.sleep(1.0 if name == CRASHING else PAUSE)


async def commands(project: Path, environment: Mapping[str, str], tally: Tally, until: float) -> None:
    """A person who types commands."""

    async def command() -> None:
        words = [sys.executable, "-m", "max", "count", SOURCES[0], "AcmeUser"]
        process = await asyncio.create_subprocess_exec(
            *words, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        _, err = await process.communicate()
        if process.returncode not in (0, 1):
            raise ConnectionLost(f"max count: {process.returncode} {err.decode()}")

    while time.monotonic() < until:
        await tally.ask(command)
        await asyncio.sleep(10 * PAUSE)


async def asking(project: Path, draw: random.Random, tally: Tally, until: float) -> None:
    """A client that reads."""
    async with Client.at(DaemonFolder(project).socket) as client:
        questions: list[Callable[[str], Awaitable[object]]] = [
            lambda name: client.count(name, "AcmeTask", "status = todo"),
            lambda name: client.search(name, "AcmeTask", order_by="-updated_at", limit=20),
            lambda name: client.get(name, "AcmeUser", "w1-u1"),
            lambda name: client.sql("SELECT count(*) FROM acme_task", of=[name]),
            lambda name: client.changes(name, limit=20),
            lambda name: client.state(name),
            lambda _: client.find("changed", limit=5),
            lambda _: client.installations(),
        ]
        while time.monotonic() < until:
            question, name = draw.choice(questions), draw.choice(SOURCES)
            await tally.ask(lambda question=question, name=name: question(name))  # type: ignore[misc]
            await asyncio.sleep(PAUSE)


# -- what is looked at -----------------------------------------------------------------------------


async def watch(
    project: Path, tally: Tally, samples: list[tuple[float, Sample, Sample]], until: float, seconds: float
) -> None:
    """Print what the daemon and its runners hold, as time goes by."""
    began, printed, pause = time.monotonic(), 0, max(0.2, seconds / SAMPLES)
    pid = DaemonFolder(project).pid()
    print(
        f"{'s':>5}{'asked':>9}{'answered':>10}   {'daemon: fds':>12}{'threads':>9}{'MB':>8}"
        f"   {'runners: n':>12}{'fds':>6}{'threads':>9}{'MB':>8}"
    )
    while time.monotonic() < until and pid is not None:
        await asyncio.sleep(pause)
        own = sample_of(pid)
        below = [one for one in map(sample_of, children(pid)) if one]
        if own is None:
            break
        total = Sample(*(sum(values) for values in zip(*below, strict=True))) if below else Sample(0, 0, 0.0)
        elapsed = time.monotonic() - began
        samples.append((elapsed, own, total))
        if elapsed < (printed + 1) * seconds / LINES:
            continue
        printed += 1
        print(
            f"{elapsed:5.0f}{tally.asked:9}{tally.answered:10}   {own.descriptors:12}{own.threads:9}"
            f"{own.memory:8.1f}   {len(below):12}{total.descriptors:6}{total.threads:9}{total.memory:8.1f}",
            flush=True,
        )


def sample_of(pid: int) -> Sample | None:
    """What a process holds; None when it has ended."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return Sample(descriptors, int(status["Threads"]), int(status["VmRSS"].split()[0]) / 1024)
    except (OSError, KeyError):
        return None


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(one) for one in task.read_text().split()]
        except OSError:
            continue
    return found


async def differing(project: Path, name: str, service: Service) -> list[str]:
    """Sync once more, and compare the tasks that are stored with those of the source."""
    async with Client.at(DaemonFolder(project).socket) as client:
        await client.sync(name).result()
    tenant = service.tenant
    projects = [one["id"] for n in (1, 2) for one in tenant.page(KINDS["project"], f"w{n}", 0, 1_000)[0]]
    tasks = [one for id in projects for one in tenant.page(KINDS["task"], id, 0, 100_000)[0]]
    expected = {one["id"]: one["title"] for one in tasks}

    def stored() -> dict[str, Any]:
        with Project.find(project).read(name) as reader:
            rows = reader.sql("SELECT id, title FROM acme_task", limit=1_000_000).rows
            return dict(rows)

    found = await asyncio.to_thread(stored)
    wrong = {id for id in expected.keys() | found.keys() if expected.get(id) != found.get(id)}
    print(f"{name}: {len(expected)} tasks, {tenant.position} changes, {len(wrong)} differ")
    return [
        f"{name} {id}: {found.get(id)!r} is stored, {expected.get(id)!r} is right" for id in sorted(wrong)
    ]


def at_rest(values: list[float]) -> float:
    """The lowest tenth: what is held while few calls are open, whose own memory comes and goes."""
    return quantiles(values, n=10)[0]


def judge(tally: Tally, samples: list[tuple[float, Sample, Sample]], differences: list[str]) -> int:
    """Say what went wrong; the exit status."""
    problems = [*tally.lost, *differences[:10]]
    if tally.answered != tally.asked:
        problems.append(f"{tally.asked - tally.answered} of {tally.asked} questions had no answer")
    third = len(samples) // 3
    if third >= 2:
        early, late = samples[third : 2 * third], samples[-third:]
        for n, what in enumerate(Sample._fields):
            middle = at_rest if what == "memory" else median
            before, after = (middle([one[1][n] for one in part]) for part in (early, late))
            grown = after > before * 1.01 if what == "memory" else after - before > MORE
            words = f"{before:.1f} in the second third, {after:.1f} in the last, {after / before:.3f} ×"
            print(f"daemon's {what}: {words}")
            problems += [f"the daemon's {what} grew: {words}"] if grown else []
    print(f"{tally.asked} asked, {tally.answered} answered, of these refused: {dict(tally.refused)}")
    for one in problems:
        print(f"WRONG: {one}")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
