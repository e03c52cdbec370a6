"""The part of Buildkite's agent API that artifacts need, on a loopback port, keeping everything in memory.

It stands in for the service when the hooks are tested on a real agent. `Api.corrupt` flips a byte of every download,
`Api.slow` delays every file transfer by that many seconds, and `Api.artifacts` is what was recorded so far.
"""

import email
import email.policy
import json
import re
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Api:
    """A running API. Artifacts are listed in the order in which they were announced."""

    def __init__(self):
        self.artifacts = []
        self.calls = []
        self.builds = {}
        self.metadata = {}
        self.corrupt = False
        self.slow = 0.0
        self.lock = threading.Lock()
        handler = type("Handler", (Handler,), {"api": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"{self.address}/v3"

    def start_job(self, job, build, step):
        """Tells the API which build and step a job belongs to; the real service knows."""
        self.builds[job] = (build, step)

    def finished(self, job=None):
        """Paths that can be downloaded, of one job or of all."""
        return [a["path"] for a in self.artifacts if a["state"] == "finished" and job in (None, a["job_id"])]

    def stop(self):
        self.server.shutdown()


def expression(glob):
    """The service reads a query as a glob: `*` stays in one folder, `**` does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(known.get(part, re.escape(part)) for part in parts) + r"\Z", re.S)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api = None

    def log_message(self, *_):
        pass

    def answer(self, status, document=None, content=None):
        body = content if content is not None else json.dumps({} if document is None else document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if content is not None else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def route(self, method):
        url = urllib.parse.urlsplit(self.path)
        self.api.calls.append(f"{method} {url.path}")
        for wanted, pattern, action in ROUTES:
            found = re.fullmatch(pattern, url.path)
            if method == wanted and found:
                if "/v3/" in url.path and not self.headers.get("Authorization", "").startswith("Token "):
                    return self.answer(401, {"message": "no token"})
                query = {key: values[-1] for key, values in urllib.parse.parse_qs(url.query).items()}
                return action(self, query, *found.groups())
        self.body()
        return self.answer(404, {"message": f"no such call: {method} {url.path}"})

    def do_GET(self):
        self.route("GET")

    def do_POST(self):
        self.route("POST")

    def do_PUT(self):
        self.route("PUT")

    def announce(self, _query, job):
        request = json.loads(self.body())
        build, step = self.api.builds.get(job, ("", ""))
        identities = []
        with self.api.lock:
            for artifact in request["artifacts"]:
                identity = str(uuid.uuid4())
                identities.append(identity)
                self.api.artifacts.append({
                    "id": identity, "path": artifact["path"], "file_size": artifact["file_size"],
                    "sha1sum": artifact["sha1sum"], "sha256sum": artifact.get("sha256sum", ""), "job_id": job,
                    "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "url": f"{self.api.address}/files/{identity}", "upload_destination": "",
                    "state": "new", "content": None, "build": build, "step": step,
                })
        action = {"url": self.api.address, "method": "POST", "path": "/form", "file_input": "file"}
        data = {"key": "${artifact:path}", "job": job}
        instructions = {"data": data, "action": action}
        self.answer(201, {"id": request["id"], "artifact_ids": identities, "upload_instructions": instructions})

    def form(self, _query):
        """A form upload. The file is matched to its announcement by job and path, as a form has no id."""
        body = self.body()
        time.sleep(self.api.slow)
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        fields, content = {}, b""
        for part in email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts():
            name = part.get_param("name", header="Content-Disposition")
            if name == "file":
                content = part.get_payload(decode=True)
            else:
                fields[name] = part.get_payload(decode=True).decode()
        with self.api.lock:
            for artifact in self.api.artifacts:
                if artifact["job_id"] == fields["job"] and artifact["path"] == fields["key"]:
                    artifact["content"] = content
        self.answer(204, content=b"")

    def settle(self, _query, job):
        states = {entry["id"]: entry["state"] for entry in json.loads(self.body())["artifacts"]}
        with self.api.lock:
            for artifact in self.api.artifacts:
                if artifact["job_id"] == job and artifact["id"] in states:
                    artifact["state"] = states[artifact["id"]]
        self.answer(200, {})

    def search(self, query, build):
        wanted = expression(query.get("query", "**"))
        scope = query.get("scope")
        with self.api.lock:
            found = [artifact for artifact in self.api.artifacts
                     if artifact["build"] == build and artifact["state"] == "finished"
                     and (not scope or scope in (artifact["step"], artifact["job_id"]))
                     and wanted.match(artifact["path"])]
        if query.get("include_duplicates") != "true":
            found = list({artifact["path"]: artifact for artifact in found}.values())
        hidden = ("content", "state", "build", "step")
        self.answer(200, [{key: value for key, value in artifact.items() if key not in hidden}
                          for artifact in reversed(found)])

    def file(self, _query, identity):
        time.sleep(self.api.slow)
        content = next((a["content"] for a in self.api.artifacts if a["id"] == identity), None)
        if content is None:
            return self.answer(404, {"message": "no such artifact"})
        if self.api.corrupt and content:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 0x40]) + content[middle + 1:]
        return self.answer(200, content=content)

    def annotate(self, _query, _job):
        self.body()
        self.answer(201)

    def data(self, _query, job, verb):
        request = json.loads(self.body() or b"{}")
        values = self.api.metadata.setdefault(self.api.builds.get(job, ("", ""))[0], {})
        key = request.get("key")
        if verb == "set":
            values[key] = request.get("value")
            return self.answer(200)
        if verb == "exists":
            return self.answer(200, {"exists": key in values})
        if verb == "keys":
            return self.answer(200, sorted(values))
        if key in values:
            return self.answer(200, {"key": key, "value": values[key]})
        return self.answer(404, {"message": "no such key"})


ROUTES = [
    ("POST", "/v3/jobs/([^/]+)/artifacts", Handler.announce),
    ("PUT", "/v3/jobs/([^/]+)/artifacts", Handler.settle),
    ("GET", "/v3/builds/([^/]+)/artifacts/search", Handler.search),
    ("POST", "/v3/jobs/([^/]+)/annotations", Handler.annotate),
    ("POST", "/v3/jobs/([^/]+)/data/(set|get|exists|keys)", Handler.data),
    ("POST", "/form", Handler.form),
    ("GET", "/files/([^/]+)", Handler.file),
]
