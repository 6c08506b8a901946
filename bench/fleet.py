"""A fleet of workers: how it scales, how it finds work, and what it survives.

``python -m bench.fleet scale``   1, 2 and 4 workers on installations whose service answers slowly
``python -m bench.fleet find``    the time to find work among 20 and 2,000 installations
``python -m bench.fleet storm``   three hosts, of which one is killed and one is cut off and heals, and a
                                  server that is restarted: every table equals its source in the end

The service of ``scale`` takes a second for a page by default.  All workers run on this machine, so that they
wait for the service, and not for its cores: what they used of these is printed, the services included.

The hosts of ``storm`` are network namespaces of its own where this user may make them (root on Linux); else
one of them is stopped and continued in place of being cut off.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from max.projects.database import ProjectDatabase
from max.storage.postgres import PostgresDatabase
from tests.fleets import Fleet, Sources, Worker, fleet
from tests.postgres_server import Server, server
from tests.waiting import wait_until

from .measure import spent

PREFIX = f"mx{os.getpid() % 10_000}"  # of the namespaces and links that are made
ADDRESS = "10.77.0.1"  # of the server and the services, which the namespaces reach
SLOW: dict[str, Any] = {"workspaces": 1, "users": 20, "projects": 4, "tasks": 60, "files": 1, "page_size": 10}


# -- scaling -----------------------------------------------------------------------------------


def scale(installations: int, latency: float) -> None:
    """The time of the same work for 1, 2 and 4 workers with one installation each at a time."""
    names = [f"n{number}" for number in range(installations)]
    seconds: dict[int, float] = {}
    cores = os.cpu_count() or 1
    with server() as postgres, Sources(names, latency_ms=latency, **SLOW) as sources:
        for workers in (1, 2, 4):
            before = spent()
            seconds[workers] = seconds_of(f"{postgres.url}#scale{workers}", sources, workers)
            linear, used = seconds[1] / seconds[workers] / workers, spent() - before
            share = f"{used:.1f} s of {cores} cores"
            print(f"{workers} workers: {seconds[workers]:.1f} s, {linear:.2f} of linear; {share}", flush=True)


def seconds_of(url: str, sources: Sources, workers: int) -> float:
    """How long so many workers take to sync every service, from when the first sync is asked for."""
    with tempfile.TemporaryDirectory() as place, fleet(url, Path(place), sources.urls) as one:
        for _ in range(workers):
            one.work("--concurrency", "1")
        wait_until(lambda: one.table.workers() == workers, "the workers work")
        began = time.monotonic()
        for id in one.ids.values():
            one.table.ask(id, {})
        wait_until(lambda: len(one.completed()) == len(one.ids), "all are synced")
        return time.monotonic() - began


# -- finding work ------------------------------------------------------------------------------


def find() -> None:
    """The time of a claim, and of asking when the next is due, with few installations and with many."""
    times: dict[int, list[float]] = {20: [], 2_000: []}
    with server() as postgres:
        tables = {}
        for number in times:
            project = ProjectDatabase.open(f"{postgres.url}#find{number}", create=True)
            with PostgresDatabase(postgres.url, f"find{number}").writer() as connection:
                connection.execute(
                    "INSERT INTO installation SELECT 'i' || n, 'acme', 'i' || n, 'p' || n, '{}', '{}', 0,"
                    " NULL, 1 FROM generate_series(1, CAST(? AS integer)) AS n",
                    (number,),
                )
                connection.execute("INSERT INTO work SELECT id, 4e9 FROM installation")
            tables[number] = project.work_table()
        for _ in range(200):
            for number, table in tables.items():
                table.wake("i7")
                began = time.perf_counter()
                (claim,) = table.claim("me", [])
                table.next_due(["i7"])
                times[number].append(time.perf_counter() - began)
                table.give_back("me", claim, next_at=4e9)
    for number, found in times.items():
        print(f"{number:,} installations: {1000 * median(found):.2f} ms to find work")
    print(f"{median(times[2_000]) / median(times[20]):.2f} × of 20 with 2,000")


# -- what it survives ----------------------------------------------------------------------------


def ip(*words: str) -> None:
    """Run ``ip`` of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def namespaces(number: int) -> Iterator[list[str]]:
    """The names of so many network namespaces that reach ADDRESS; none where they cannot be made."""
    names = [f"{PREFIX}n{one}" for one in range(number)]
    made = []
    try:
        try:
            ip("addr", "add", f"{ADDRESS}/32", "dev", "lo")
            for one, name in enumerate(names):
                ip("netns", "add", name)
                made.append(name)
                ip("link", "add", f"{PREFIX}h{one}", "type", "veth", "peer", "name", "up0", "netns", name)
                ip("addr", "add", f"10.77.{one + 1}.1/24", "dev", f"{PREFIX}h{one}")
                ip("link", "set", f"{PREFIX}h{one}", "up")
                ip("-n", name, "addr", "add", f"10.77.{one + 1}.2/24", "dev", "up0")
                ip("-n", name, "link", "set", "up0", "up")
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "route", "add", "default", "via", f"10.77.{one + 1}.1")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no network namespaces: {error}")
            yield []
        else:
            yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "addr", "del", f"{ADDRESS}/32", "dev", "lo"], check=False, capture_output=True)


def listening(postgres: Server) -> str:
    """Have a server listen for the namespaces; its URL for them."""
    with (postgres.data / "pg_hba.conf").open("a") as file:
        file.write("host all all 10.77.0.0/16 trust\n")
    postgres.stop(signal.SIGINT)
    postgres.start(listen_addresses=ADDRESS)
    return f"postgresql://postgres@{ADDRESS}/postgres"


def storm(installations: int) -> int:
    """Three hosts and their fates; 0 when all is as it should be."""
    names = [f"n{number}" for number in range(installations)]
    with ExitStack() as opened:
        place = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        hosts = opened.enter_context(namespaces(3))
        postgres = opened.enter_context(server())
        settings = {"listen_addresses": ADDRESS} if hosts else {}
        url = listening(postgres) if hosts else postgres.url
        host = ADDRESS if hosts else "127.0.0.1"
        sources = opened.enter_context(Sources(names, host, latency_ms=100.0, **SLOW))
        one = opened.enter_context(fleet(url, place, sources.urls))
        for name in names:
            one.table.ask(one.ids[name], {})
        for number in range(3):
            before = ["ip", "netns", "exec", hosts[number]] if hosts else []
            one.work("--concurrency", "4", before=before)
        began, again = time.monotonic(), dict.fromkeys(names, 0)
        first, second, third = one.workers
        lose(one, sources, names, first, again, kill=True)
        print(f"{time.monotonic() - began:.1f} s: the first host is killed")
        lose(one, sources, names, second, again, link=f"{PREFIX}h1" if hosts else "")
        print(f"{time.monotonic() - began:.1f} s: the second one is cut off")
        over = wait_until(lambda: one.taken_over(), "their work is taken over")
        print(f"{time.monotonic() - began:.1f} s: {over} leases were taken over")
        one.restart(postgres, third, again, **settings)
        print(f"{time.monotonic() - began:.1f} s: the server was restarted")
        time.sleep(5)
        if hosts:
            ip("link", "set", f"{PREFIX}h1", "up")
        else:
            second.send_signal(signal.SIGCONT)
        print(f"{time.monotonic() - began:.1f} s: the second host is back")
        wait_until(lambda: one.completed() == set(names), "every sync has ended")
        print(f"{time.monotonic() - began:.1f} s: all {len(names)} are synced")
        return judge(one, sources, names, again)


def lose(
    one: Fleet,
    sources: Sources,
    names: Sequence[str],
    worker: Worker,
    again: dict[str, int],
    *,
    kill: bool = False,
    link: str = "",
) -> None:
    """Kill a worker in the middle of its syncs, cut its host off, or stop it."""

    def busy() -> list[str]:
        return [name for name in one.owned(worker) if sources.served(name) > 2]

    wait_until(busy, "it is busy")
    if kill:
        worker.kill()
    elif link:
        ip("link", "set", link, "down")
    else:
        worker.send_signal(signal.SIGSTOP)
    for name in one.owned(worker):
        if one.status(name) == "running":
            again[name] += one.in_flight(name)


def judge(one: Fleet, sources: Sources, names: Sequence[str], again: dict[str, int]) -> int:
    """Say what is wrong; the exit status."""
    wrong = [name for name in names if one.stored(name) != sources.rows(name)]
    twice = {name: sources.again(name) for name in names if sources.again(name) > again[name]}
    print(f"{len(wrong)} installations differ from their source: {wrong[:5]}")
    fetched = sum(sources.again(name) for name in names)
    print(f"{fetched} pages were fetched again of {sum(again.values())} in flight; too many of: {twice}")
    print(f"{len(one.held_by_two())} leases were held by two")
    return int(bool(wrong or twice or one.held_by_two()))


def main() -> int:
    """Run one of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet")
    parser.add_argument("what", choices=["scale", "find", "storm"])
    parser.add_argument("--installations", type=int, default=0)
    parser.add_argument("--latency", type=float, default=1000.0, help="milliseconds, of scale")
    given = parser.parse_args()
    if given.what == "storm":
        return storm(given.installations or 200)
    if given.what == "find":
        find()
    else:
        scale(given.installations or 8, given.latency)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
