"""A strict server with the behaviour of GitHub's REST API.

It is a real HTTP server on a local port, with data that tests change.  What GitHub would refuse it
refuses, and remembers in ``refused``: other methods, unknown paths and parameters, pages of more than
100 rows, a missing User-Agent, another media type or version, times without a zone, addresses of
pages that it has not given out.  Answers that are as they were (304) cost nothing of the limit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from max import Json
from tests.github_data import Clock, Data, Repo, furnish, iso

TOKEN = "ghp_tokenOfTheFake"
MEDIA = "application/vnd.github+json"
VERSIONS = ("2022-11-28", "2026-03-10")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

PAGING = {"per_page": r"[1-9]\d?|100", "page": r"[1-9]\d{0,5}"}
SINCE = {"since": TIME.pattern}
DIRECTION = {"direction": "asc|desc"}
STATE = {"state": "open|closed|all"}
REPO = r"/repos/(?P<owner>[^/]+)/(?P<repo>[^/]+)"
ROUTES: dict[str, tuple[str, dict[str, str]]] = {  # by handler: a path, and what parameters may be
    "user": (r"/user", {}),
    "user_repos": (r"/user/repos", {**PAGING, **DIRECTION, "sort": "created|updated|pushed|full_name"}),
    "installation_repos": (r"/installation/repositories", PAGING),
    "repo": (REPO, {}),
    "issues": (
        f"{REPO}/issues",
        {**PAGING, **STATE, **SINCE, **DIRECTION, "sort": "created|updated|comments"},
    ),
    "comments": (f"{REPO}/issues/comments", {**PAGING, **SINCE, **DIRECTION, "sort": "created|updated"}),
    "pulls": (f"{REPO}/pulls", {**PAGING, **STATE, **DIRECTION, "sort": "created|updated|popularity"}),
    "pull": (rf"{REPO}/pulls/(?P<number>\d+)", {}),
    "reviews": (rf"{REPO}/pulls/(?P<number>\d+)/reviews", PAGING),
    "review_comments": (
        f"{REPO}/pulls/comments",
        {**PAGING, **SINCE, **DIRECTION, "sort": "created|updated"},
    ),
    "labels": (f"{REPO}/labels", PAGING),
    "milestones": (f"{REPO}/milestones", {**PAGING, **STATE, **DIRECTION, "sort": "due_on|completeness"}),
    "commits": (f"{REPO}/commits", {**PAGING, **SINCE, "sha": r".+"}),
    "compare": (f"{REPO}/compare/(?P<basehead>.+)", PAGING),
    "releases": (f"{REPO}/releases", PAGING),
    "teams": (r"/orgs/(?P<org>[^/]+)/teams", PAGING),
    "members": (r"/orgs/(?P<org>[^/]+)/teams/(?P<slug>[^/]+)/members", PAGING),
}
TOKENS = re.compile(r"/app/installations/(\d+)/access_tokens")


DETAILS = (
    *("merged", "mergeable", "mergeable_state", "merged_by", "comments", "review_comments"),
    *("maintainer_can_modify", "commits", "additions", "deletions", "changed_files"),
)


@dataclass
class Answer:
    """What the server sends."""

    data: Json = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """A request that came, and the status of its answer."""

    method: str
    target: str
    headers: Mapping[str, str]
    status: int = 0
    answer: Json = None
    handler: str = ""


@dataclass
class Fault:
    """What goes wrong with the requests whose method and address match."""

    pattern: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Json = None
    drop: bool = False
    truncate: bool = False
    garbage: bool = False
    call: Callable[[], object] | None = None
    times: int | None = 1
    skip: int = 0
    hits: int = 0


class Refused(Exception):
    """A request to which GitHub gives an error."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = Answer(
            {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)},
            status,
            dict(headers or {}),
        )


# -- the server ------------------------------------------------------------------------------------


class Fake(Data):
    """The service behind a local port; AssertionError at the end if it had to refuse something."""

    def __init__(self, clock: Callable[[], float] | None = None, limit: int = 5000) -> None:
        super().__init__(clock or Clock())
        self.limit = self.remaining = limit
        self.reset = self.clock() + 3600
        self.tokens: dict[str, float] = {TOKEN: float("inf")}  # and when each expires
        self.installed: set[str] = set()  # the tokens of an installation
        self.issued = 0
        self.app: tuple[str, str, Any] | None = None  # App, installation, public key
        self.org_scope = True  # whether tokens may see teams
        self.hidden_orgs: list[str] = []  # that want a single sign-on
        self.given: set[str] = set()  # addresses of pages that were given out
        self.log: list[Seen] = []
        self.refused: list[str] = []
        self.faults: list[Fault] = []
        self.charged = 0
        self._lock = threading.RLock()

    def inject(self, pattern: str, **what: Any) -> Fault:
        """A fault for the next request, or ``times`` of them, that matches ``METHOD /path?query``."""
        self.faults.append(Fault(pattern, **what))
        return self.faults[-1]

    def requests(self) -> list[Seen]:
        """The requests since the last call."""
        seen, self.log = self.log, []
        return seen

    def __enter__(self) -> Fake:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True  # a small answer would wait for the acknowledgement of its head
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake._serve(self)

            def do_POST(self) -> None:
                fake._serve(self)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                """A killed client closes no connection."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        if kind is None:
            assert self.refused == []

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            seen = Seen(handler.command, handler.path, headers)
            self.log.append(seen)
            fault = self._fault(f"{seen.method} {seen.target}")
            if fault is not None and fault.call is not None:
                fault.call()
                fault = None
            if fault is not None and fault.status:
                said = {"message": f"fault {fault.status}"} if fault.body is None else fault.body
                answer = Answer(said, fault.status, dict(fault.headers))
            else:
                answer = self._answer(seen, body)
            seen.status, seen.answer = answer.status, answer.data
        if fault is not None and fault.drop:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        content = b"" if answer.status == 304 else json.dumps(answer.data).encode()
        if fault is not None and fault.garbage:
            content = b"<!doctype html><h1>Unicorn!</h1>"
        handler.send_response_only(answer.status)
        for name, value in {"Date": formatdate(self.clock(), usegmt=True), **answer.headers}.items():
            handler.send_header(name, value)
        if answer.status != 304:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if fault is not None and fault.truncate else content)
        if fault is not None and fault.truncate:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True

    def _fault(self, request: str) -> Fault | None:
        for fault in self.faults:
            if re.search(fault.pattern, request):
                fault.hits += 1
                if fault.hits > fault.skip and (
                    fault.times is None or fault.hits <= fault.skip + fault.times
                ):
                    return fault
        return None

    def _answer(self, seen: Seen, body: bytes) -> Answer:
        """The answer to a request; what GitHub would refuse is remembered."""
        try:
            self._check_headers(seen)
            if match := TOKENS.fullmatch(urlsplit(seen.target).path):
                return self._issue_token(seen, match[1])
            self._check_token(seen)
            self._charge()
            answer = self._routed(seen)
        except Refused as refused:
            answer = refused.answer
        answer.headers |= self._limit_headers()
        if answer.status == 200:
            tag = f'W/"{hashlib.sha256(json.dumps(answer.data).encode()).hexdigest()}"'
            answer.headers["ETag"] = tag
            if seen.headers.get("if-none-match") == tag:
                self.remaining += 1
                self.charged -= 1
                kept = {"ETag": tag, **self._limit_headers()}
                return Answer(None, 304, kept | {k: v for k, v in answer.headers.items() if k == "Link"})
        return answer

    def _limit_headers(self) -> dict[str, str]:
        used = self.limit - self.remaining
        values = {"limit": self.limit, "remaining": self.remaining, "used": used, "reset": int(self.reset)}
        return {f"X-RateLimit-{name}": str(value) for name, value in values.items()} | {
            "X-RateLimit-Resource": "core"
        }

    def _charge(self) -> None:
        if self.clock() >= self.reset:
            self.remaining, self.reset = self.limit, self.clock() + 3600
        if self.remaining <= 0:
            raise Refused(403, "API rate limit exceeded for user ID 1.")
        self.remaining -= 1
        self.charged += 1

    def _wrong(self, seen: Seen, status: int, problem: str) -> Refused:
        self.refused.append(f"{seen.method} {seen.target}: {problem}")
        return Refused(status, problem)

    def _check_headers(self, seen: Seen) -> None:
        if not seen.headers.get("user-agent"):
            raise self._wrong(seen, 403, "Request forbidden by administrative rules: no User-Agent")
        if seen.headers.get("accept") != MEDIA:
            raise self._wrong(seen, 415, f"Unsupported 'Accept' header: {seen.headers.get('accept')}")
        if seen.headers.get("x-github-api-version") not in VERSIONS:
            raise self._wrong(seen, 400, "The version is not supported")

    def _check_token(self, seen: Seen) -> str:
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        if self.tokens.get(token, 0.0) <= self.clock():
            raise Refused(401, "Bad credentials")
        return token

    def _issue_token(self, seen: Seen, installation: str) -> Answer:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        if seen.method != "POST":
            raise self._wrong(seen, 404, "Not Found")
        assert self.app is not None
        app, known, key = self.app
        head, claims, signature = seen.headers.get("authorization", "").removeprefix("Bearer ").split(".")
        try:
            key.verify(unpadded(signature), f"{head}.{claims}".encode(), PKCS1v15(), SHA256())
        except InvalidSignature:
            raise Refused(401, "A JSON web token could not be decoded") from None
        said = json.loads(unpadded(claims))
        now = time.time()  # connectors sign by the machine's clock
        if json.loads(unpadded(head)) != {"alg": "RS256", "typ": "JWT"} or said["iss"] != app:
            raise Refused(401, "A JSON web token could not be decoded")
        if not said["iat"] <= now < said["exp"] <= now + 600:
            raise Refused(401, "'Expiration time' claim ('exp') is too far in the future")
        if installation != known:
            raise Refused(404, "Not Found")
        self.issued += 1
        token = f"ghs_{self.issued}{'x' * 30}"
        self.tokens[token] = self.clock() + 3600
        self.installed.add(token)
        data = {"token": token, "expires_at": iso(self.clock() + 3600), "repository_selection": "all"}
        return Answer({**data, "permissions": {"issues": "read", "metadata": "read"}}, 201)

    def _routed(self, seen: Seen) -> Answer:
        """Find what answers a path, and check the parameters."""
        if seen.method != "GET":
            raise self._wrong(seen, 404, "Not Found")
        split = urlsplit(seen.target)
        path, prefix = split.path, ""
        if match := re.match(r"/repositories/(\d+)(?=/|$)", path):
            if seen.target not in self.given:
                raise self._wrong(seen, 404, "Not Found: this address was made up")
            prefix, repo = match[0], self.repos.get(int(match[1]))
            if repo is None:
                raise Refused(404, "Not Found")
            path = f"/repos/{repo.row['full_name']}{path[len(prefix) :]}"
        elif "page=" in split.query and not prefix and seen.target not in self.given:
            pass  # a number of a page may be asked for directly
        for name, (pattern, allowed) in ROUTES.items():
            found = re.fullmatch(pattern, path)
            if found:
                seen.handler = name
                params = dict(parse_qsl(split.query, keep_blank_values=True))
                for key, value in params.items():
                    if key not in allowed or not re.fullmatch(allowed[key], value):
                        raise self._wrong(seen, 422, f"Invalid request: the parameter {key}={value}")
                pieces = {key: unquote(value) for key, value in found.groupdict().items()}
                return self._handled(seen, name, pieces, params)
        raise self._wrong(seen, 404, "Not Found: no such path")

    def _handled(self, seen: Seen, name: str, pieces: dict[str, str], params: dict[str, str]) -> Answer:
        if "owner" not in pieces:
            return self._rows(seen, getattr(self, f"_{name}")(seen, pieces, params), params)
        full_name = f"{pieces['owner']}/{pieces['repo']}"
        repo = self.named(full_name)
        if repo is None:
            moved = self.repos.get(self.former.get(full_name.lower(), -1))
            if moved is None:
                raise Refused(404, "Not Found")
            rest = urlsplit(seen.target)
            path = rest.path.removeprefix(f"/repos/{full_name}")
            there = f"/repositories/{moved.row['id']}{path}" + (f"?{rest.query}" if rest.query else "")
            self.given.add(there)
            message = {"message": "Moved Permanently", "url": f"{self.url}{there}"}
            return Answer(message, 301, {"Location": f"{self.url}{there}"})
        if repo.status is not None:
            raise Refused(*repo.status)
        found = getattr(self, f"_{name}")(seen, repo, pieces, params)
        return self._rows(seen, found, params, repo)

    def _rows(self, seen: Seen, found: Any, params: dict[str, str], repo: Repo | None = None) -> Answer:
        """A page of a list, with the links to others; anything else as it is."""
        if isinstance(found, Answer):
            return found
        rows, wrap = found if isinstance(found, tuple) else (found, None)
        size, page = int(params.get("per_page", "30")), int(params.get("page", "1"))
        answer = Answer(rows[(page - 1) * size : page * size])
        last = max(1, -(-len(rows) // size))
        if last > 1:
            path = urlsplit(seen.target).path
            if repo is not None:
                path = re.sub(
                    r"^(/repos/[^/]+/[^/]+|/repositories/\d+)", f"/repositories/{repo.row['id']}", path
                )
            at = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
            shown = [one for one in at if (one in ("prev", "first")) is (page > 1) or one in ("next", "last")]
            links = []
            for rel in shown:
                if 1 <= at[rel] <= last and not (rel == "last" and page == last):
                    target = f"{path}?{urlencode({**params, 'page': at[rel]})}"
                    self.given.add(target)
                    links.append(f'<{self.url}{target}>; rel="{rel}"')
            answer.headers["Link"] = ", ".join(links)
        if wrap is not None:
            answer.data = wrap(answer.data)
        return answer

    # what answers each path

    def _user(self, seen: Seen, pieces: Any, params: Any) -> Any:
        if seen.headers["authorization"].removeprefix("Bearer ") in self.installed:
            raise Refused(403, "Resource not accessible by integration")
        return Answer(self.user("ada"))

    def _visible(self) -> list[Json]:
        return [
            one.row
            for one in self.repos.values()
            if str(one.row["owner"]["id"]) not in self.hidden_orgs
            and (one.status is None or one.status[0] not in (404,))
        ]

    def _user_repos(self, seen: Seen, pieces: Any, params: dict[str, str]) -> Any:
        if seen.headers["authorization"].removeprefix("Bearer ") in self.installed:
            raise Refused(403, "Resource not accessible by integration")
        rows = sorted(self._visible(), key=lambda row: (row["created_at"], row["id"]))
        if self.hidden_orgs:
            answer = self._rows(seen, rows, params)
            answer.headers["X-GitHub-SSO"] = f"partial-results; organizations={','.join(self.hidden_orgs)}"
            return answer
        return rows

    def _installation_repos(self, seen: Seen, pieces: Any, params: Any) -> Any:
        if seen.headers["authorization"].removeprefix("Bearer ") not in self.installed:
            raise Refused(403, "You must authenticate with an installation access token")
        rows = self._visible()
        return rows, lambda page: {"total_count": len(rows), "repositories": page}

    def _repo(self, seen: Seen, repo: Repo, pieces: Any, params: Any) -> Any:
        full = {"subscribers_count": 1, "network_count": 1, "temp_clone_token": None}
        return Answer({**repo.row, **full})

    def _issues(self, seen: Seen, repo: Repo, pieces: Any, params: dict[str, str]) -> Any:
        if not repo.row["has_issues"]:
            raise Refused(410, "Issues are disabled for this repo")
        return chosen(repo.issues.values(), params, "desc")

    def _comments(self, seen: Seen, repo: Repo, pieces: Any, params: dict[str, str]) -> Any:
        return chosen(repo.comments.values(), params, "asc")

    def _review_comments(self, seen: Seen, repo: Repo, pieces: Any, params: dict[str, str]) -> Any:
        return chosen(repo.review_comments.values(), params, "asc")

    def _pulls(self, seen: Seen, repo: Repo, pieces: Any, params: dict[str, str]) -> Any:
        rows = chosen(repo.pulls.values(), params, "desc")
        return [{name: value for name, value in row.items() if name not in DETAILS} for row in rows]

    def _pull(self, seen: Seen, repo: Repo, pieces: dict[str, str], params: Any) -> Any:
        return Answer(self._found(repo.pulls, int(pieces["number"])))

    def _reviews(self, seen: Seen, repo: Repo, pieces: dict[str, str], params: Any) -> Any:
        return self._found(repo.reviews, int(pieces["number"]))

    def _found(self, things: Mapping[Any, Any], key: Any) -> Any:
        if key not in things:
            raise Refused(404, "Not Found")
        return things[key]

    def _labels(self, seen: Seen, repo: Repo, pieces: Any, params: Any) -> Any:
        return sorted(repo.labels.values(), key=lambda row: row["name"])

    def _milestones(self, seen: Seen, repo: Repo, pieces: Any, params: dict[str, str]) -> Any:
        return [
            row for row in repo.milestones.values() if params.get("state", "open") in ("all", row["state"])
        ]

    def _releases(self, seen: Seen, repo: Repo, pieces: Any, params: Any) -> Any:
        return sorted(repo.releases.values(), key=lambda row: -row["id"])

    def _commits(self, seen: Seen, repo: Repo, pieces: Any, params: dict[str, str]) -> Any:
        if not repo.commits:
            raise Refused(409, "Git Repository is empty.")
        wanted = params.get("sha", repo.row["default_branch"])
        sha = repo.branches.get(wanted, wanted)
        self._found(repo.commits, sha)
        return [repo.commits[one] for one in repo.history(sha)]

    def _compare(self, seen: Seen, repo: Repo, pieces: dict[str, str], params: Any) -> Any:
        base, _, head = (repo.branches.get(one, one) for one in pieces["basehead"].partition("..."))
        for one in (base, head):
            self._found(repo.commits, one)
        old, new = set(repo.history(base)), repo.history(head)
        rows = [repo.commits[one] for one in reversed(new) if one not in old]
        behind = len(old - set(new))
        status = "diverged" if rows and behind else "ahead" if rows else "behind" if behind else "identical"
        url = f"{repo.api}/compare/{base}...{head}"
        about = {
            "url": url,
            "html_url": url,
            "permalink_url": url,
            "diff_url": url,
            "patch_url": url,
            "base_commit": repo.commits[base],
            "merge_base_commit": repo.commits[base],
            "status": status,
            "ahead_by": len(rows),
            "behind_by": behind,
            "total_commits": len(rows),
            "files": [],
        }
        return rows, lambda page: {**about, "commits": page}

    def _organization(self, org: str) -> None:
        if not self.org_scope:
            scopes = {"X-OAuth-Scopes": "repo", "X-Accepted-OAuth-Scopes": "admin:org, read:org"}
            raise Refused(403, "You must have read:org scope", scopes)
        if self._found(self.users, org)["type"] != "Organization":
            raise Refused(404, "Not Found")

    def _teams(self, seen: Seen, pieces: dict[str, str], params: Any) -> Any:
        self._organization(pieces["org"])
        return list(self.teams.get(pieces["org"], {}).values())

    def _members(self, seen: Seen, pieces: dict[str, str], params: Any) -> Any:
        self._organization(pieces["org"])
        return [self.user(one) for one in self._found(self.members, (pieces["org"], pieces["slug"]))]


def unpadded(text: str) -> bytes:
    """The bytes of base64 for URLs without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def chosen(rows: Any, params: Mapping[str, str], direction: str) -> list[Json]:
    """Rows by state and time of change, in the order that was asked for."""
    state, since = params.get("state", "open"), params.get("since", "")
    key = "updated_at" if params.get("sort", "created") == "updated" else "created_at"
    if "sort" not in params:
        direction = "desc" if "number" in next(iter(rows), {}) else "asc"
    found = [
        row
        for row in rows
        if row["updated_at"] >= since and ("state" not in row or state in ("all", row["state"]))
    ]
    backwards = params.get("direction", direction) == "desc"
    return sorted(found, key=lambda row: (row[key], row["id"]), reverse=backwards)


@contextmanager
def served(issues: int = 12, **options: Any) -> Iterator[Fake]:
    """A server with example data."""
    with Fake(**options) as fake:
        furnish(fake, issues)
        yield fake
