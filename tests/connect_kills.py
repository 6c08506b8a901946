"""Kills commands that change an installation at their nth file operation, and looks at what is left.

``python -m tests.connect_kills FOLDER KILLS`` kills so often, and prints how often as JSON; what was
killed is often killed once more when it is repeated.  Then a command that gives an installation another
address and another token is stopped at its operations, and a sync runs meanwhile; ``beside`` counts these.
An AssertionError says what is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from itertools import count, takewhile
from pathlib import Path
from pkgutil import walk_packages
from random import Random
from urllib.parse import urlsplit

from max import __path__ as package
from max.cli import main as max_main
from max.projects.folder import ProjectFolder
from tests.projects.test_folder import sabotage

HERE = Path(__file__).parent
OLD, NEW = "old-token-0123456789", "new-token-9876543210"
CREDENTIALS = ("credentials.json", ".credentials.json.new")  # the second is a leftover of a kill
OTHER = "other-token-5555555555"
FIRST = 8  # operations, in which disconnecting removes the secrets and then the rest
DISCONNECTING = 6  # the place of that scenario
PATIENCE = 0.3  # seconds that a sync gets while a change is stopped: it may wait for its end
SPARSE = 11  # operations between two at which a change is stopped, when there are few kills
MANY = 300  # kills: as many as all commands have operations


class Services:
    """Two addresses in a process of their own, which note every token that comes."""

    def __init__(self, folder: Path) -> None:
        self.log, read, write = folder / "seen", *os.pipe()
        self.process = os.fork()
        if not self.process:
            os.close(read)
            serve(self.log, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            self.old, self.new = pipe.readline().split()

    def seen(self) -> set[tuple[str, str]]:
        """Every address with every token that came to it."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return {(url, token) for url, token in (line.split() for line in lines)}

    def stop(self) -> None:
        """End the process."""
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


def serve(log: Path, ready: int) -> None:
    """Answer at two addresses until the process is killed."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            port = urlsplit(f"//{self.headers['Host']}").port
            token = self.headers.get("Authorization", "nothing").split()[-1]
            with log.open("a") as file:
                file.write(f"http://127.0.0.1:{port} {token}\n")
            body = b'["a","b"]'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    from threading import Thread

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    os.write(
        ready, (" ".join(f"http://127.0.0.1:{one.server_address[1]}" for one in servers) + "\n").encode()
    )
    Thread(target=servers[0].serve_forever).start()
    servers[1].serve_forever()


def run(root: Path, words: list[str], nth: int | None = None) -> int | None:
    """A command in a process of its own, killed at its nth file operation; its status, None when killed."""
    return ended(begun(root, words, nth, signal.SIGKILL))


def begun(root: Path, words: list[str], nth: int | None = None, sent: signal.Signals = signal.SIGSTOP) -> int:
    """The process of a command, which sends itself a signal at its nth file operation."""
    child = os.fork()
    if not child:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.chdir(root)
        status = 70
        try:
            with sabotage(nth or 1 << 30, lambda: os.kill(os.getpid(), sent)):
                status = max_main(words)
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int | None:
    """The status with which a process ends; None when it was killed."""
    status = os.waitpid(child, 0)[1]
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


class Scenario:
    """A command, and every state of the installation that it may leave: address, size, token; None: gone."""

    def __init__(self, words: str, *allowed: tuple[str, int, str | None] | None, done: int = -1) -> None:
        self.words, self.allowed, self.final = words.split(), allowed, allowed[done]


def scenarios(services: Services) -> list[Scenario]:
    """Every command that changes an installation, with what it may leave; the last is the end."""
    a, b = services.old, services.new
    before = (a, 1, OLD)
    new = "--credential token=env:NEW"
    return [
        Scenario(f"connect gated:made --set url={b} {new}", before),
        Scenario(f"connect gated:main --update --set url={b} {new}", before, (b, 1, NEW)),
        Scenario(f"connect gated:main --update --set size=2 {new}", before, (a, 2, NEW)),
        Scenario(f"connect gated:main --update {new}", before, (a, 1, NEW)),
        Scenario("connect gated:main --update --set size=3", before, (a, 3, OLD)),
        Scenario("settings gated:main history=changes", before),
        Scenario("disconnect gated:main --yes", before, (a, 1, None), None),
        Scenario("disconnect gated:main --yes --keep-data", before, (a, 1, None), None),
        Scenario(f"connect gated:kept --set url={b} {new}", before),
    ]


def prepared(root: Path, services: Services) -> None:
    """A project with an installation that was synced, another one, and data that was kept of a third."""
    root.mkdir()
    os.environ |= {"OLD": OLD, "NEW": NEW, "OTHER": OTHER, "MAX_CONNECTORS": str(HERE / "max_gated.py")}
    for name, token in (("main", "OLD"), ("other", "OTHER"), ("kept", "OTHER")):
        words = ["connect", f"gated:{name}", "--set", f"url={services.old}", "--credential"]
        assert run(root, [*words, f"token=env:{token}"]) == 0
    assert run(root, ["sync", "gated:main"]) == 0
    assert run(root, ["disconnect", "gated:kept", "--yes", "--keep-data"]) == 0


def state(root: Path, name: str = "main") -> tuple[str, int, str | None] | None:
    """What a sync of an installation would use."""
    project = ProjectFolder.find(root)
    assert project.problems() == []
    for info in project.installations():
        if info.name == name:
            token = project.credentials(info).read().get("token")
            return info.config["url"], info.config["size"], token
    return None


def check_places(root: Path, *, leftovers: bool) -> None:
    """No secret is in another file than those for secrets, or belongs to no installation."""
    for path in (path for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if any(secret.encode() in content for secret in (OLD, NEW, OTHER)):
            assert path.name in CREDENTIALS[: 2 if leftovers else 1], path
            if not leftovers:
                assert path.with_name("installation.json").exists(), path
                assert not ({OLD, NEW} <= {s for s in (OLD, NEW) if s.encode() in content}), path


def check_after(root: Path, scenario: Scenario, services: Services) -> None:
    """The installations are whole, and a sync sends every token to its own address alone."""
    found = state(root)
    assert found in scenario.allowed, (scenario.words, found)
    assert state(root, "other") == (services.old, 1, OTHER)
    check_places(root, leftovers=True)
    if found is None or found[2] is None:  # disconnected, or on the way: the secrets went first
        assert not any(OLD.encode() in path.read_bytes() for path in root.rglob("*") if path.is_file())
    if found is not None:
        status = run(root, ["sync", "gated:main"])
        assert status == (0 if found[2] else 1), (scenario.words, found, status)
    right = {(services.old, OLD), (services.old, NEW), (services.old, OTHER), (services.new, NEW)}
    if "size=2" not in scenario.words and scenario.words[-1] != "token=env:NEW":
        right -= {(services.old, NEW)}
    assert services.seen() <= right, services.seen() - right


def finished(root: Path, scenario: Scenario, services: Services) -> None:
    """The command again, and the next one: nothing is left of the kills."""
    run(root, scenario.words)
    assert state(root) == scenario.final, (scenario.words, state(root))
    assert (
        run(root, ["connect", "gated:last", "--set", f"url={services.new}", "--credential", "token=env:NEW"])
        == 0
    )
    check_places(root, leftovers=False)


def kill(
    template: Path, folder: Path, services: Services, scenario: Scenario, nth: int, again: int | None
) -> int:
    """Kill a command at its nth operation, and ``again`` when it is repeated; how many kills that were."""
    root = folder / "project"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    services.log.unlink(missing_ok=True)
    if run(root, scenario.words, nth) is not None:
        return 0
    kills = 1 + (again is not None and run(root, scenario.words, again) is None)
    check_after(root, scenario, services)
    finished(root, scenario, services)
    return kills


def synced_beside(template: Path, folder: Path, services: Services, nth: int) -> bool:
    """Stop the change of an address at its nth operation while a sync runs; whether there is such a one.

    A sync that waits for what the other has locked ends after it.
    """
    root = folder / "project"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    services.log.unlink(missing_ok=True)
    change = f"connect gated:main --update --set url={services.new} --credential token=env:NEW"
    changing = begun(root, change.split(), nth)
    stopped = os.WIFSTOPPED(os.waitpid(changing, os.WUNTRACED)[1])
    if stopped:
        syncing = begun(root, ["sync", "gated:main", "--full"])
        until = time.monotonic() + PATIENCE
        while os.waitid(os.P_PID, syncing, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > until:
                break
            time.sleep(0.01)
        os.kill(changing, signal.SIGCONT)
        assert (ended(changing), ended(syncing) in (0, 1)) == (0, True), nth
        assert state(root) == (services.new, 1, NEW), (nth, state(root))
    assert services.seen() <= {(services.old, OLD), (services.new, NEW)}, (nth, services.seen())
    return stopped


def main(folder: Path, most: int) -> dict[str, int]:
    """Kill so often in all; how often each command was killed.

    Few kills begin with the first operations of disconnecting, whose order matters most, and are drawn at
    random then; many begin with every operation of every command.
    """
    draw, killed = Random(most), dict[str, int]()
    services, template = Services(folder), folder / "template"

    def enough(scenario: Scenario, nth: int, again: int | None) -> bool:
        kills = kill(template, folder, services, scenario, nth, again)
        killed[scenario.words[0]] = killed.get(scenario.words[0], 0) + kills
        return not kills or sum(killed.values()) >= most

    try:
        prepared(template, services)
        if most >= MANY:
            for scenario in scenarios(services):
                for nth in count(1):
                    if enough(scenario, nth, None):
                        break
        for nth in range(1, FIRST + 1) if most < MANY else ():
            enough(scenarios(services)[DISCONNECTING], nth, None)
        while sum(killed.values()) < most:
            scenario = draw.choice(scenarios(services))
            enough(scenario, draw.randint(1, 30), draw.choice([None, draw.randint(1, 30)]))
        step = 1 if most >= MANY else SPARSE
        beside = takewhile(partial(synced_beside, template, folder, services), count(1, step))
        killed["beside"] = len(list(beside))
        return killed
    finally:
        services.stop()


if __name__ == "__main__":
    for module in walk_packages(package, "max."):  # once, before the forks
        if not module.name.endswith("__main__"):
            import_module(module.name)
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
