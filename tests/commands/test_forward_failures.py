"""Commands that a daemon answers, when something goes wrong: readers that leave, processes that die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from max import __version__
from max.commands import forward
from tests.forwarding import DIRECT, Machine
from tests.waiting import wait_until

ROWS = "SELECT a.title, b.title AS other FROM acme_task a, acme_task b"
ALL = ["sql", "acme", ROWS, "--limit", "10000", "-o", "ndjson"]  # more than the buffers on the way hold
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
HELLO = json.dumps({"max": __version__, "protocol": 1})
SHORT = ["search", "acme", "AcmeUser", "--limit", "2"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process has open")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A project with data of the demo source."""
    machine = Machine(tmp_path_factory.mktemp("f"))
    assert machine.max("sync", "acme:default").status == 0
    return machine


@pytest.fixture(scope="module")
def shared(place: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A copy of it with a daemon, for tests after which that lives."""
    machine = Machine(tmp_path_factory.mktemp("s"))
    shutil.copytree(place.folder, machine.folder, dirs_exist_ok=True)
    machine.start()
    yield machine
    machine.close()


@pytest.fixture
def machine(place: Machine) -> Iterator[Machine]:
    """The same without one; the test starts its own, if any."""
    place.kill()
    yield place
    place.close()
    shutil.rmtree(place.place / "h" / "daemons", ignore_errors=True)


def commands(machine: Machine) -> int:
    """How many commands the daemon is running, by its threads."""
    assert machine.daemon is not None
    return len(list(Path(f"/proc/{machine.daemon.pid}/task").iterdir())) - 1


def open_data(machine: Machine) -> int:
    """How many descriptors of the database the daemon has."""
    assert machine.daemon is not None
    found = 0
    for link in Path(f"/proc/{machine.daemon.pid}/fd").iterdir():
        try:
            found += "data.db" in os.readlink(link)  # noqa: PTH115
        except OSError:  # it was closed meanwhile
            continue
    return found


def begun(machine: Machine, *words: str) -> subprocess.Popen[bytes]:
    """A command that the daemon has begun to answer; nothing was read of its output."""
    process = machine.begin(*words)
    wait_until(lambda: commands(machine) > 0 and open_data(machine) > 0)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and close what leads to it."""
    process.kill()
    process.communicate()


# -- callers that leave, or do not read ---------------------------------------------------------------


@linux
class TestCallers:
    def test_a_reader_that_has_seen_enough_ends_the_command(self, shared: Machine) -> None:
        for known in ({}, DIRECT):
            process = shared.begin(*ALL, environment=known)
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert (process.stderr.read(), process.wait()) == (b"", 0)
            process.stderr.close()
        wait_until(lambda: (commands(shared), open_data(shared)) == (0, 0))

    def test_a_full_disk_is_reported_as_without_the_daemon(self, shared: Machine) -> None:
        answers = []
        for known in ({}, DIRECT):
            with Path("/dev/full").open("wb") as full:
                process = shared.begin(*ALL, environment=known, stdout=full)
                _, err = process.communicate()
            answers.append((process.returncode, err))
        assert answers[0] == answers[1]
        assert answers[0][0] == 1
        assert b"No space left" in answers[0][1]

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_closed_streams_are_as_without_the_daemon(self, shared: Machine, closed: str) -> None:
        line = f"exec {sys.executable} -m max search acme AcmeUser --limit 2 {closed}"
        answers = [
            subprocess.run(
                ["sh", "-c", line], cwd=shared.folder, env=shared.environment | known, capture_output=True
            )
            for known in ({}, DIRECT)
        ]
        first, second = ((one.returncode, one.stdout, one.stderr) for one in answers)
        assert first == second
        assert first[0] == 0

    def test_an_interrupt_ends_it_with_130_and_the_command_in_the_daemon(self, shared: Machine) -> None:
        process = begun(shared, "sql", "acme", ENDLESS, "--timeout", "10m")
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"interrupted\n")
        assert process.returncode == 130
        wait_until(lambda: (commands(shared), open_data(shared)) == (0, 0))

    def test_a_killed_caller_ends_the_command_in_the_daemon(self, shared: Machine) -> None:
        for words in (ALL, ["sql", "acme", ENDLESS, "--timeout", "10m"]):
            end(begun(shared, *words))
            assert wait_until(lambda: (commands(shared), open_data(shared)) == (0, 0))

    def test_a_caller_that_never_reads_delays_no_other(self, shared: Machine) -> None:
        process = begun(shared, *ALL)
        before = len(shared.answered())
        assert shared.max(*SHORT).status == 0
        assert len(shared.answered()) == before + 1
        wait_until(lambda: commands(shared) == 1)
        end(process)

    def test_a_caller_that_never_reads_is_dropped_and_learns_of_it(self, machine: Machine) -> None:
        machine.start(patience=0.2)
        process = begun(machine, *ALL)
        wait_until(lambda: (commands(machine), open_data(machine)) == (0, 0))
        out, err = process.communicate()
        assert process.returncode == 1
        assert out
        assert b"what was printed is not all" in err

    def test_beyond_its_bound_commands_run_in_the_processes_of_their_callers(self, machine: Machine) -> None:
        machine.start(most=1)
        process = begun(machine, *ALL)
        assert machine.max(*SHORT) == machine.max(*SHORT, environment=DIRECT)
        assert machine.answered()[-1:] != [SHORT]
        end(process)
        wait_until(lambda: commands(machine) == 0)
        assert machine.max(*SHORT).status == 0
        assert machine.answered()[-1] == SHORT

    def test_many_commands_leave_no_thread_and_no_descriptor(self, machine: Machine) -> None:
        process = machine.start()
        request = raw_request(machine)

        def opened_after(number: int) -> int:
            for _ in range(number):
                assert asked(machine, request)[-1] == {"id": 1, "result": 0}
            wait_until(lambda: commands(machine) == 0)
            return opened(process)

        few = opened_after(10)  # the last connection may still be open
        opened_after(200)
        wait_until(lambda: opened(process) <= few)


def opened(process: int) -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def raw_request(machine: Machine) -> bytes:
    """What a caller of the machine sends."""
    code = f"from max.commands.forward import request; print(request({SHORT}).decode(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=machine.folder, env=machine.environment, capture_output=True
    )
    return done.stdout


def asked(machine: Machine, request: bytes) -> list[object]:
    """The messages that the daemon sends to a request; each is taken, or it would wait before the third."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(machine.socket))
        connection.sendall(request)
        with connection.makefile("rb") as lines:
            found = []
            for line in lines:
                found.append(json.loads(line))
                if {"result", "error"} & found[-1].keys():
                    break
                if "event" in found[-1]:
                    connection.sendall(b'{"id": 1, "took": 1}\n')
            return found


# -- daemons that die, hang or talk nonsense ----------------------------------------------------------


class TestDaemons:
    def test_the_socket_that_a_killed_daemon_left_is_not_in_the_way(self, machine: Machine) -> None:
        machine.start()
        machine.kill()
        assert machine.socket.exists()
        assert machine.max(*SHORT) == machine.max(*SHORT, environment=DIRECT)

    @linux
    def test_a_daemon_that_is_killed_after_output_was_printed_leaves_an_error(self, machine: Machine) -> None:
        machine.start()
        process = machine.begin(*ALL)
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 65_536)
        machine.kill()
        out, err = process.communicate()
        assert process.returncode == 1
        error = json.loads(err)["error"]
        assert error["code"] == "daemon.lost"
        assert error["message"] == "what was printed is not all: the daemon has ended"
        assert "--direct" in error["hint"]
        whole = machine.max(*ALL, environment=DIRECT).out
        assert len(first + out) < len(whole)
        assert whole.startswith(first + out)

    @linux
    def test_a_daemon_that_is_killed_before_that_is_not_missed(self, machine: Machine) -> None:
        machine.start()
        slow = ENDLESS.replace("FROM n)", "FROM n WHERE i < 3000000)")
        process = begun(machine, "sql", "acme", slow)
        machine.kill()
        out, err = process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert b"3000000" in out

    @linux
    def test_a_daemon_that_hangs_is_not_waited_for(self, machine: Machine) -> None:
        os.kill(machine.start(), signal.SIGSTOP)
        assert machine.max(*SHORT) == machine.max(*SHORT, environment=DIRECT)

    @pytest.mark.parametrize(
        "said",
        [
            "",
            "nonsense\n",
            "[]\n",
            '{"max": "99.0", "protocol": 1}\n',
            json.dumps({"max": __version__, "protocol": 2}) + "\n",
            HELLO + "\n",
            HELLO + "\nnonsense\n",
            HELLO + "\n[]\n",
            HELLO + '\n{"id": 1, "event": 7}\n',
            HELLO + '\n{"id": 1, "event": [["out"]]}\n',
            HELLO + '\n{"id": 1, "event": [["status", "x"]]}\n',
            HELLO + '\n{"id": 1, "result": null}\n',
            HELLO + '\n{"id": 1, "error": {"code": "daemon.busy", "message": "busy"}}\n',
            HELLO + '\n{"id": 1, "error": 7}\n',
            HELLO + '\n{"id": null, "error": {"code": "daemon.protocol", "message": "what?"}}\n',
        ],
    )
    def test_what_no_daemon_would_say_is_not_believed(self, machine: Machine, said: str) -> None:
        with impostor(machine, said.encode()):
            assert machine.max(*SHORT) == machine.max(*SHORT, environment=DIRECT)

    def test_a_daemon_that_ends_after_a_part_of_the_answer_leaves_an_error(self, machine: Machine) -> None:
        part = json.dumps({"id": 1, "event": [["status", "0"], ["out", "one row\n"]]})
        with impostor(machine, f"{HELLO}\n{part}\n".encode()):
            found = machine.max(*SHORT, "-o", "json")
        assert (found.status, found.out) == (1, b"one row\n")
        assert json.loads(found.err)["error"]["code"] == "daemon.lost"


@contextmanager
def impostor(machine: Machine, said: bytes) -> Iterator[None]:
    """A process at the place of the daemon's socket that says this to who connects, and hangs up."""
    machine.start()
    path = machine.socket
    machine.kill()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1_000_000)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()


def test_a_caller_imports_next_to_nothing(shared: Machine) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "max", *SHORT],
        cwd=shared.folder,
        env=shared.environment,
        capture_output=True,
        text=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    dear = {"re", "json", "socket", "pathlib", "typing", "argparse", "asyncio", "sqlite3", "hashlib", "enum"}
    assert done.returncode == 0
    assert "max.commands.forward" in modules
    assert not modules & dear
    own = {one for one in modules if one.startswith("max.")}
    assert len(own) < 13, own


def test_the_folder_of_a_project_has_the_name_that_the_project_gives_it() -> None:
    from max.installations.files import FOLDER

    assert forward.PROJECT == FOLDER
