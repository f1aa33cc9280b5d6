"""A stand-in for `vllm serve` with faults that the real one cannot be made to show. Usage: as `vllm serve …`.

`FAKE_VLLM` names the faults, separated by commas:
    hang      never answers            deaf    ignores TERM
    die       exits 3 at once          worker  starts a child that ignores TERM, like a stuck engine core
    late      waits for a file named in FAKE_VLLM_GO before it takes the port
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import time

FAULTS = os.environ.get("FAKE_VLLM", "").split(",")
KEY = os.environ.get("VLLM_API_KEY")
WORKER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def flag(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        card = {"id": flag("--served-model-name"), "root": sys.argv[sys.argv.index("serve") + 1]}
        body = json.dumps({"data": [card]} if self.path == "/v1/models" else {}).encode()
        wrong_key = KEY and self.headers.get("Authorization") != f"Bearer {KEY}"
        self.send_response(401 if wrong_key and self.path.startswith("/v1/") else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


print("non-default args: {…}", "proxy:", os.environ.get("NO_PROXY"), flush=True)
if "deaf" in FAULTS:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "worker" in FAULTS:
    subprocess.Popen([sys.executable, "-c", WORKER])
if "die" in FAULTS:
    print("RuntimeError: something that nobody has seen before", flush=True)
    sys.exit(3)
while "late" in FAULTS and not os.path.exists(os.environ["FAKE_VLLM_GO"]):
    time.sleep(0.05)
if "hang" in FAULTS:
    time.sleep(600)
http.server.ThreadingHTTPServer(("127.0.0.1", int(flag("--port"))), Handler).serve_forever()
