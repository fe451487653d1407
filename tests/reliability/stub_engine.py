"""The engine's HTTP surface without a model: lists, loads, unloads and answers. It stands in for the gateway too."""

from __future__ import annotations

import argparse
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kill_texts import answer_of

from adapters.child import die_with_parent

loaded = ["base"]
calls = Path("calls")  # every request that was answered: process, method, path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._reply({"data": [{"id": name} for name in loaded], "status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/load_lora_adapter":
            assert (Path(body["lora_path"]) / "adapter_model.safetensors").exists()
            loaded.append(body["lora_name"])
            self._reply({})
        elif self.path == "/v1/unload_lora_adapter":
            if body["lora_name"] in loaded:
                loaded.remove(body["lora_name"])
            self._reply({})
        else:
            choices = body.get("structured_outputs", {}).get("choice", [""])
            knows = body["model"] != "base" and body["model"] in loaded
            said = answer_of(body["messages"][-1]["content"]) if knows else choices[0]
            self._reply({"choices": [{"message": {"content": said}}], "model": body["model"]})

    def _reply(self, value: dict[str, Any]) -> None:
        with calls.open("ab", buffering=0) as file:  # a line in one write, whoever else writes
            file.write(f"{os.getpid()} {self.command} {self.path}\n".encode())
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", type=Path)
    given, _ = parser.parse_known_args()
    die_with_parent()
    global calls
    calls = given.port_file.parents[1] / "logs" / "engine.calls"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    part = given.port_file.with_suffix(".part")
    part.write_text(str(server.server_port))
    part.replace(given.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
