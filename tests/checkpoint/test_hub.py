"""Models by name: where the hubs' own clients put them, and downloaded from a real HTTP server with a hub's paths."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from safetensors.torch import load_file

import qvl
from qvl.checkpoint.hub import find_model
from qvl.errors import CheckpointError

SHIPPED = Path("src/qvl/assets/tiny")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "first"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "second"))


def put(folder: Path) -> Path:
    """A checkpoint folder, of links as the clients make them."""
    folder.mkdir(parents=True)
    for path in SHIPPED.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    return folder


def client_finds(code: str, tmp_path: Path) -> Path:
    """What a hub's own client says, in a process of its own: it reads its variables when it is imported."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert find_model(SHIPPED) == SHIPPED
    with pytest.raises(CheckpointError, match=r"no such checkpoint folder$"):
        find_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"Qwen/Qwen-VL: .*nor in a hub's cache; download it with a hub"):
        find_model("Qwen/Qwen-VL")


def test_huggingface_s_cache(tmp_path: Path) -> None:
    """The commit that main names, as its client has it."""
    root = tmp_path / "first/hub/models--Qwen--Qwen-VL-Chat"
    put(root / "snapshots" / ("f" * 40))
    wanted = put(root / "snapshots" / COMMIT)
    (root / "refs").mkdir()
    (root / "refs/main").write_text(COMMIT)
    assert find_model("Qwen/Qwen-VL-Chat") == wanted
    code = "from huggingface_hub import snapshot_download as s; print(s('Qwen/Qwen-VL-Chat', local_files_only=True))"
    assert client_finds(code, tmp_path) == wanted
    assert qvl.load("Qwen/Qwen-VL-Chat").chat([{"role": "user", "content": "Hello"}], max_new_tokens=2).answer_tokens


@pytest.mark.parametrize(
    "place",
    [
        "models/qwen--Qwen-VL.1/snapshots/master",
        "models/qwen/Qwen-VL___1",
        "hub/models/qwen/Qwen-VL___1",
        "hub/qwen/Qwen-VL___1",
        "qwen/Qwen-VL.1",
    ],
)
def test_modelscope_s_cache_by_all_its_versions(place: str, tmp_path: Path) -> None:
    wanted = put(tmp_path / "second" / place)
    assert find_model("qwen/Qwen-VL.1") == wanted
    if not place.startswith("hub/models"):  # which its newest client forgets
        code = "from modelscope import snapshot_download as s; print(s('qwen/Qwen-VL.1', local_files_only=True))"
        assert client_finds(code, tmp_path).resolve() == wanted.resolve()


class HubHandler(BaseHTTPRequestHandler):
    """The few paths that a snapshot needs, over a folder's files."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        files = sorted(self.folder.iterdir())
        if path.startswith("/api/models/me/tiny/revision/"):
            siblings = [{"rfilename": file.name} for file in files]
            self._send(json.dumps({"id": "me/tiny", "sha": COMMIT, "siblings": siblings}).encode(), "application/json")
        elif path.startswith("/api/models/me/tiny/tree/"):
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": etag(f)} for f in files]
            self._send(json.dumps(tree).encode(), "application/json")
        elif path.startswith(f"/me/tiny/resolve/{COMMIT}/") and (found := self.folder / Path(path).name).exists():
            if self.command == "GET":
                self.asked.append(found.name)
            self._send(found.read_bytes(), "application/octet-stream", {"ETag": f'"{etag(found)}"'})
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def _send(self, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        values = {"Content-Type": kind, "Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **(headers or {})}
        for name, value in values.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Address, the folder that it gives, and the files that it was asked for."""
    folder = tmp_path / "given"
    folder.mkdir()
    for path in SHIPPED.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(SHIPPED / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "modeling_qwen.py").write_text("raise SystemExit('nobody runs this')")
    asked: list[str] = []
    handler = type("Handler", (HubHandler,), {"folder": folder, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder, asked
    server.shutdown()
    server.server_close()


def test_downloading_by_the_hub_s_client_leaves_code_behind(hub: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    address, _, asked = hub
    command = [sys.executable, "-m", "qvl", "export", "me/tiny", str(tmp_path / "out"), "--hub", "huggingface"]
    variables = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {"config.json", "qwen.tiktoken", "pytorch_model.bin"} <= set(asked)
    assert "modeling_qwen.py" not in asked
    assert (find_model("me/tiny") / "pytorch_model.bin").exists(), "and it stays in the cache"
    assert qvl.load(tmp_path / "out").tokenizer.vocab_size == qvl.load(SHIPPED).tokenizer.vocab_size


def test_what_a_hub_refuses_is_said_in_a_line(hub: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qvl", "export", "me/other", str(tmp_path / "out"), "--hub", "huggingface"]
    variables = {**os.environ, "HF_ENDPOINT": hub[0], "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120, check=False)
    assert done.returncode == 7
    assert "me/other: huggingface does not give it" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
