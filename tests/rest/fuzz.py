"""REST tried by what schemathesis makes of its document: `python -m tests.rest.fuzz URL TOKEN [seconds] [examples]`.

Things are made first, and their ids put into the document, so that more is reached than "there is nothing here".
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from pathlib import Path
from typing import Any

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# A reader's answer has no end; a log-in that was ended ends the run; what is deleted can't be tried further.
LEFT_OUT = r"/events/$|auth/revoke/"
GRAPH = {
    "schema": 1,
    "nodes": [
        {"id": "start", "kind": "start"},
        {"id": "ask", "kind": "question", "fields": {"text": "Your name?"}},
        {"id": "end", "kind": "end"},
    ],
    "edges": [{"from": "start", "to": "ask"}, {"from": "ask", "to": "end"}],
}


class Caller:
    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read() or b"null")


def things(call: Caller) -> dict[str, str]:
    """An id for each kind of path."""
    flow = call("POST", "flows/", {"name": f"Tried {uuid.uuid4().hex[:8]}", "draft": GRAPH})
    call("POST", f"flows/{flow['id']}/publish/", {})
    chat = call("POST", "chats/", {"flow": flow["id"]})
    said = call("POST", f"chats/{chat['id']}/turns/", {"text": "hi"})
    provider = call("POST", "providers/", {"slug": f"p{uuid.uuid4().hex[:8]}", "kind": "scripted"})
    return {
        "flows": flow["id"],
        "chats": chat["id"],
        "turns": said["turn"],
        "messages": said["message"],
        "providers": provider["id"],
    }


def document(call: Caller) -> dict[str, Any]:
    """REST's own, in which the ids of what is there stand in the paths of all but deletions."""
    found = call("GET", "schema/")
    known = things(call)
    for path, verbs in found["paths"].items():
        kind = path.split("/")[2]
        for verb, operation in verbs.items():
            for parameter in operation["parameters"]:
                if parameter["name"] == "number":
                    parameter["schema"] = {"enum": ["1"]}
                elif parameter["name"] == "ref" and kind in known and verb != "delete":
                    parameter["schema"] = {"enum": [known[kind]]}
                    parameter["example"] = known[kind]
    return found


def run(url: str, token: str, max_s: int, examples: int, phases: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "openapi.json"
        file.write_text(json.dumps(document(Caller(url, token))))
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "run", str(file), "--url", url,
            "-H", f"Authorization: Bearer {token}", "--checks", CHECKS, "--exclude-path-regex", LEFT_OUT,
            "--phases", phases, "-n", str(examples), "--max-time", str(max_s), "--request-timeout", "60",
            "--continue-on-failure", "--suppress-health-check", "all", "--generation-database", "none", "--no-color",
            "--warnings", "off", "--seed", "1",
        ]  # fmt: skip
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=max_s + 240)


if __name__ == "__main__":
    seconds, examples = (int(text) for text in (*sys.argv[3:], "600", "50")[:2])
    done = run(sys.argv[1], sys.argv[2], seconds, examples, "examples,coverage,fuzzing")
    sys.stdout.write(done.stdout + done.stderr)
    sys.exit(done.returncode)
