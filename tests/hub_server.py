"""A model hub on loopback: what huggingface_hub asks of the real one to list and download a model repository.

    with HubServer() as hub:
        commit = hub.add("owner/name", folder)
        ...  # run something with HF_ENDPOINT=hub.endpoint
        assert hub.downloads == {"config.json", "model.safetensors"}

Its refusals are the real hub's: a status, and the header `X-Error-Code` that huggingface_hub turns into an exception.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

# Not greedy, so that an id may have one part or two; a revision's slashes arrive quoted.
_INFO = re.compile(r"/api/models/(?P<id>.+?)(/revision/(?P<revision>[^/]+))?")
_TREE = re.compile(r"/api/models/(?P<id>.+?)/tree/(?P<revision>[^/]+)")
_FILE = re.compile(r"/(?P<id>.+?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(slots=True)
class Repository:
    """A repository: its revisions by commit, what branches and tags point to, and who may read it.

    A repository with a `token` is private. A `gated` one can be seen by all, and its files by nobody.
    """

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    token: str | None = None
    gated: bool = False


class HubServer:
    """Serves repositories from memory on a free port of 127.0.0.1 until `stop`.

    `cut` names files that break off: half of the promised bytes are sent, and the connection is closed. `failing` has
    everything answered by "503 Service Unavailable".
    """

    def __init__(self) -> None:
        self.cut: set[str] = set()
        self.failing = False
        self.downloads: set[str] = set()  # names of files whose contents were asked for
        self.requests = 0
        self._repositories: dict[str, Repository] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def add(
        self,
        repository: str,
        folder: Path,
        *,
        refs: tuple[str, ...] = ("main",),
        token: str | None = None,
        gated: bool = False,
    ) -> str:
        """Commits the files in `folder`, points `refs` to the commit, and returns its hash."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        commit = _sha1(json.dumps({name: _sha1(content) for name, content in files.items()}).encode())
        kept = self._repositories.setdefault(repository, Repository({}, {}))
        kept.commits[commit] = files
        kept.refs.update(dict.fromkeys(refs, commit))
        kept.token, kept.gated = token, gated
        return commit

    def stop(self) -> None:
        """Closes the port: from here on connections are refused. May be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def find(self, repository: str, revision: str, authorization: str | None) -> tuple[str, dict[str, bytes]]:
        """The commit that `revision` means and its files.

        Raises:
            _RefusedError: there is none, or `authorization` does not open it.
        """
        if authorization is not None and authorization not in {
            f"Bearer {kept.token}" for kept in self._repositories.values()
        }:
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, None, "Invalid credentials in Authorization header")
        kept = self._repositories.get(repository)
        if kept is None or (kept.token is not None and authorization != f"Bearer {kept.token}"):
            # Without a token the hub does not tell a private repository from none.
            status = HTTPStatus.UNAUTHORIZED if authorization is None else HTTPStatus.NOT_FOUND
            raise _RefusedError(status, "RepoNotFound", "Repository not found")
        commit = kept.refs.get(revision, revision)
        if commit not in kept.commits:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, kept.commits[commit]

    def is_gated(self, repository: str) -> bool:
        return self._repositories[repository].gated


class _RefusedError(Exception):
    """An answer that is an error; `code` is X-Error-Code's value."""

    def __init__(self, status: HTTPStatus, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code is not None else {})


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._respond()

        def do_HEAD(self) -> None:
            self._respond()

        def _respond(self) -> None:
            hub.requests += 1
            path = urlsplit(self.path).path
            try:
                if hub.failing:
                    raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, None, "Down for maintenance")
                if match := _TREE.fullmatch(path):
                    self._send_json(self._tree(match))
                elif match := _INFO.fullmatch(path):
                    self._send_json(self._info(match))
                elif match := _FILE.fullmatch(path):
                    self._send_file(match)
                else:
                    raise _RefusedError(HTTPStatus.NOT_FOUND, None, f"No such page: {path}")
            except _RefusedError as refusal:
                self._send(refusal.status, refusal.headers, b"")

        def _find(self, match: re.Match[str]) -> tuple[str, dict[str, bytes]]:
            revision = unquote(match["revision"] or "main")
            return hub.find(match["id"], revision, self.headers.get("Authorization"))

        def _info(self, match: re.Match[str]) -> dict[str, Any]:
            commit, files = self._find(match)
            return {"id": match["id"], "sha": commit, "siblings": [{"rfilename": name} for name in files]}

        def _tree(self, match: re.Match[str]) -> list[dict[str, Any]]:
            _, files = self._find(match)
            return [
                {"type": "file", "path": name, "size": len(content), "oid": _sha1(content)}
                for name, content in files.items()
            ]

        def _send_file(self, match: re.Match[str]) -> None:
            commit, files = self._find(match)
            if hub.is_gated(match["id"]):
                raise _RefusedError(HTTPStatus.UNAUTHORIZED, "GatedRepo", "Access to this model is restricted")
            name = unquote(match["file"])
            if name not in files:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
            content = files[name]
            if self.command == "GET":
                hub.downloads.add(name)
            self._send(
                HTTPStatus.OK,
                {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": commit},
                content,
                sent=len(content) // 2 if name in hub.cut else len(content),
            )

        def _send_json(self, data: Any) -> None:
            self._send(HTTPStatus.OK, {"Content-Type": "application/json"}, json.dumps(data).encode())

        def _send(self, status: HTTPStatus, headers: dict[str, str], body: bytes, *, sent: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:sent])
                self.close_connection = sent is not None and sent < len(body)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr: the tests read that of the commands."""

    return Handler


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
