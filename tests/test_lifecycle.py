"""How a server starts, fails to start, and ends: with the real command, as a supervisor sees it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import requests
from serving import REPOSITORY, serving

from magenta_bento.config import Settings
from magenta_bento.weights.catalog import MUSICCOCA_FILES, locate

START_S = 120


def start(folder: Path, command: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a server that is expected to end by itself."""
    environment = {**os.environ, "BENTOML_HOME": str(folder / "bentoml"), **settings}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=START_S,
    )


def test_a_named_model_without_files_stops_the_start_with_the_command(tmp_path: Path) -> None:
    settings = {"MAGENTA_MODEL": "mrt2_small", "MAGENTA_HOME": str(tmp_path)}
    ended = start(tmp_path, ["magenta_bento.cli", "serve"], **settings)
    assert ended.returncode == 1
    assert "magenta-bento models download mrt2_small" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_bentoml_alone_gives_up_too(tmp_path: Path) -> None:
    """Its supervisor would start the worker again for ever."""
    settings = {"MAGENTA_MODEL": "mrt2_small", "MAGENTA_HOME": str(tmp_path)}
    ended = start(tmp_path, ["bentoml", "serve", "service:MagentaBento", "--port", "0"], **settings)
    assert "magenta-bento models download mrt2_small" in ended.stdout + ended.stderr


def test_a_checkpoint_that_does_not_load_ends_the_server(tmp_path: Path) -> None:
    demo = locate("demo", Settings())
    small = locate("mrt2_small", Settings(magenta_home=tmp_path))
    small.checkpoint.parent.mkdir(parents=True)
    small.musiccoca_dir.mkdir(parents=True)
    shutil.copy(demo.checkpoint, small.checkpoint)  # whole, but of another shape
    for name in MUSICCOCA_FILES:
        shutil.copy(demo.musiccoca_dir / name, small.musiccoca_dir / name)
    ended = start(tmp_path, ["magenta_bento.cli", "serve"], MAGENTA_HOME=str(tmp_path))
    told = ended.stdout + ended.stderr
    assert "magenta-bento models verify mrt2_small" in told


def test_sigterm_lets_running_music_finish_and_refuses_more(tmp_path: Path) -> None:
    with serving(tmp_path, fake_model=True, MAX_STREAMS="1") as server:
        body = {"prompt": "a long goodbye", "duration": 60, "format": "wav"}
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(
                requests.post(f"{server.url}/generate/text", json=body, timeout=60)
            )
        )
        asking.start()
        while requests.get(f"{server.url}/health", timeout=5).json()["streams"]["active"] == 0:
            pass
        server.process.send_signal(signal.SIGTERM)
        asking.join()
        assert server.process.wait(60) == 0
    assert answers[0].status_code == 200
    assert len(answers[0].content) > 60 * 48_000 * 4
    assert "the grace period is over" not in server.log.read_text()


def test_music_is_cut_when_the_grace_period_ends(tmp_path: Path) -> None:
    settings = {"SHUTDOWN_GRACE_S": "0.2", "MAX_STREAMS": "1"}
    with serving(tmp_path, fake_model=True, **settings) as server:
        url = f"{server.url}/stream/text?prompt=endless&duration=0&format=pcm"
        with requests.get(url, stream=True, timeout=60) as answer:
            chunks = answer.iter_content(4096)
            next(chunks)
            server.process.send_signal(signal.SIGTERM)
            try:
                for _ in chunks:
                    pass
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                pass
        assert server.process.wait(60) == 0


def test_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    with serving(tmp_path, fake_model=True, MAX_STREAMS="1") as server:
        workers = psutil.Process(server.process.pid).children(recursive=True)
        worker = next(w for w in workers if "_bentoml_impl.worker" in " ".join(w.cmdline()))
        worker.kill()
        worker.wait(30)
        server.wait_until_healthy()
        body = {"prompt": "back again", "duration": 0.4, "format": "wav"}
        answer = requests.post(f"{server.url}/generate/text", json=body, timeout=60)
        assert answer.status_code == 200
