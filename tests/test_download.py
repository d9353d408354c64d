"""Downloads against a local stand-in for the hub: what is fetched, kept, continued, explained."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hub as stand_in
import pytest
from hub import MUSICCOCA_PATHS, Hub

from magenta_bento.config import Settings
from magenta_bento.errors import WeightsError
from magenta_bento.weights import catalog
from magenta_bento.weights import download as download_module
from magenta_bento.weights.download import download

TOKEN = "hf_" + "secret" * 6
SMALL = "checkpoints/mrt2_small.safetensors"
NEEDED = {SMALL, *MUSICCOCA_PATHS}
# huggingface_hub hands on what it receives in pieces of 10 MiB; what is cut within the first
# piece is lost, so a transfer that is to be continued must be longer.
PIECE_BYTES = 10 * 1024 * 1024
ROOT = Path(__file__).parent.parent


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with stand_in.serving(stand_in.repository()) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"MAGENTA_HOME": str(tmp_path / "home")})


def fetch(hub: Hub, settings: Settings, name: str = "mrt2_small") -> list[str]:
    """Downloads; the lines that were said."""
    said: list[str] = []
    download(name, settings, say=said.append, endpoint=hub.hub_url)
    return said


def on_disk(settings: Settings) -> dict[str, bytes]:
    root = catalog.home(settings)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


def partials(settings: Settings) -> list[Path]:
    return list(catalog.home(settings).rglob("*.partial"))


def test_fetches_only_what_is_needed_into_upstreams_layout(hub: Hub, settings: Settings) -> None:
    files = download("mrt2_small", settings, endpoint=hub.hub_url)
    assert on_disk(settings) == {path: hub.files[path] for path in NEEDED}
    assert hub.transferred == NEEDED
    assert files.missing() == []
    assert partials(settings) == []


def test_lies_where_upstream_looks(hub: Hub, settings: Settings) -> None:
    fetch(hub, settings)
    code = (
        "from magenta_rt import paths; print(paths.musiccoca_dir() / 'mapper.tflite'); "
        "print(paths.resolve_checkpoint('mrt2_small.safetensors'))"
    )
    env = {**os.environ, "MAGENTA_HOME": str(settings.magenta_home)}
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for line, path in zip(shown.stdout.split(), (MUSICCOCA_PATHS[-1], SMALL), strict=True):
        assert Path(line).read_bytes() == hub.files[path]


def test_a_second_run_fetches_nothing(hub: Hub, settings: Settings) -> None:
    fetch(hub, settings)
    hub.asked.clear()
    said = fetch(hub, settings)
    assert hub.transfers == []
    assert all(line.endswith("already there") for line in said)
    assert {asked.method for asked in hub.asked} == {"HEAD"}


def test_a_second_model_shares_musiccoca(hub: Hub, settings: Settings) -> None:
    fetch(hub, settings)
    hub.asked.clear()
    fetch(hub, settings, "mrt2_base")
    assert hub.transferred == {"checkpoints/mrt2_base.safetensors"}


def test_reuses_what_upstreams_mrt_laid(hub: Hub, settings: Settings) -> None:
    """``mrt`` from Google Cloud leaves files only; from the hub, its bookkeeping as well."""
    stand_in.lay(catalog.home(settings), {path: hub.files[path] for path in NEEDED})
    fetch(hub, settings)
    assert hub.transfers == []


def test_upstreams_mrt_reuses_what_we_laid(hub: Hub, settings: Settings) -> None:
    """By the call that ``mrt checkpoints download`` makes."""
    import huggingface_hub

    fetch(hub, settings)
    hub.asked.clear()
    huggingface_hub.hf_hub_download(
        stand_in.REPO_ID, SMALL, local_dir=catalog.home(settings), endpoint=hub.hub_url
    )
    assert hub.transfers == []


def test_a_file_of_another_revision_is_replaced(hub: Hub, settings: Settings) -> None:
    stand_in.lay(catalog.home(settings), {SMALL: stand_in.safetensors({"old": 64})})
    fetch(hub, settings)
    assert on_disk(settings)[SMALL] == hub.files[SMALL]


def test_the_revision_is_asked_for_and_every_file_is_of_its_commit(
    hub: Hub, settings: Settings
) -> None:
    fetch(hub, settings.model_copy(update={"magenta_revision": stand_in.RELEASE}))
    revisions = [a.path.split("/")[4] for a in hub.asked if "/resolve/" in a.path]
    assert revisions[0] == stand_in.RELEASE
    assert set(revisions[1:]) == {stand_in.COMMIT}


def test_a_cut_transfer_continues_by_itself(hub: Hub, settings: Settings) -> None:
    hub.files[SMALL] = stand_in.safetensors({"a": PIECE_BYTES // 4 + 500_000})
    hub.cut_after, hub.cuts = PIECE_BYTES + 1000, 1
    fetch(hub, settings)
    ranges = [asked.range for asked in hub.transfers if asked.path.endswith(SMALL)]
    assert ranges == [None, f"bytes={PIECE_BYTES}-"]
    assert on_disk(settings)[SMALL] == hub.files[SMALL]


def test_an_interrupted_download_continues_in_the_next_run(hub: Hub, settings: Settings) -> None:
    hub.files[SMALL] = stand_in.safetensors({"a": PIECE_BYTES // 4 + 500_000})
    hub.cut_after, hub.cuts, hub.broken_cdn = PIECE_BYTES + 1000, 1, True
    with pytest.raises(WeightsError, match=r"HTTP 503.*continues where it stopped"):
        fetch(hub, settings)
    assert [path.stat().st_size for path in partials(settings)] == [PIECE_BYTES]
    assert SMALL not in on_disk(settings)

    hub.broken_cdn = False
    hub.asked.clear()
    fetch(hub, settings)
    assert hub.transfers[0].range == f"bytes={PIECE_BYTES}-"
    assert on_disk(settings)[SMALL] == hub.files[SMALL]
    assert partials(settings) == []


def test_a_killed_download_continues_in_the_next_run(hub: Hub, settings: Settings) -> None:
    hub.files[SMALL] = stand_in.safetensors({"a": PIECE_BYTES // 4 + 500_000})
    hub.cut_after, hub.cuts, hub.stall = PIECE_BYTES + 1000, 1, True
    process = subprocess.Popen(command(), cwd=ROOT, env=environment(hub, settings))
    assert hub.stalled.wait(30)
    deadline_polls = 200
    while not (found := partials(settings)) or found[0].stat().st_size < PIECE_BYTES:
        deadline_polls -= 1
        assert deadline_polls, "nothing of the transfer reached the disk"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    process.kill()
    process.wait()

    hub.asked.clear()
    fetch(hub, settings)
    assert hub.transfers[0].range == f"bytes={PIECE_BYTES}-"
    assert on_disk(settings)[SMALL] == hub.files[SMALL]


def test_bytes_of_another_revision_are_not_continued(hub: Hub, settings: Settings) -> None:
    folder = catalog.home(settings) / ".cache" / "magenta-bento"
    folder.mkdir(parents=True)
    (folder / "mrt2_small.safetensors.0123456789abcdef.partial").write_bytes(b"old")
    fetch(hub, settings)
    assert all(asked.range is None for asked in hub.transfers)
    assert partials(settings) == []


def test_damage_on_the_way_never_reaches_its_place(hub: Hub, settings: Settings) -> None:
    hub.damage = True
    with pytest.raises(WeightsError, match="checksum differs"):
        fetch(hub, settings)
    assert on_disk(settings) == {}
    assert partials(settings) == []


def test_the_token_is_sent_to_the_hub_only(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.needs_token = TOKEN
    fetch(hub, settings)
    assert len(hub.transfers) == len(NEEDED)
    for asked in hub.asked:
        sent = asked.authorization is not None
        assert sent == ("/resolve/" in asked.path)


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ({"refuse": 401, "error_code": "RepoNotFound"}, "HTTP 401.*HF_TOKEN"),
        ({"refuse": 403, "error_code": "GatedRepo"}, "HTTP 403.*HF_TOKEN"),
        ({"refuse": 403}, "HTTP 403.*HF_TOKEN"),
        ({"refuse": 404, "error_code": "RepoNotFound"}, "has no google/magenta-realtime-2"),
        ({"refuse": 404, "error_code": "RevisionNotFound"}, "revision 'main'.*MAGENTA_REVISION"),
        ({"refuse": 404, "error_code": "EntryNotFound"}, f"has no {SMALL} at revision 'main'"),
        ({"refuse": 500}, "HTTP 500.*run the same command again"),
        ({"refuse": 204}, "doesn't answer like a Hugging Face hub: check HF_ENDPOINT"),
    ],
)
def test_refusals_are_one_clear_sentence_without_the_token(
    hub: Hub,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: dict[str, object],
    expected: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, value in behaviour.items():
        setattr(hub, name, value)
    with pytest.raises(WeightsError, match=expected) as raised:
        fetch(hub, settings)
    assert "\n" not in str(raised.value)
    assert TOKEN not in str(raised.value)


def test_no_network_is_explained_without_the_addresss_password(settings: Settings) -> None:
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1:9 can't be reached") as raised:
        download("mrt2_small", settings, endpoint="http://user:pass" + "word@127.0.0.1:9")
    assert "word" not in str(raised.value)


def test_without_network_whole_files_are_kept(hub: Hub, settings: Settings) -> None:
    fetch(hub, settings)
    hub.refuse = 503
    said = fetch(hub, settings)
    assert "compared with nothing" in said[-1]


def test_a_disk_without_room_is_told_before_any_transfer(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(WeightsError, match=r"MB free.*MAGENTA_HOME"):
        fetch(hub, settings)
    assert hub.transfers == []


def test_a_disk_that_fills_up_is_explained(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download_module, "http_get", full)
    with pytest.raises(WeightsError, match=r"is full.*continues where it stopped"):
        fetch(hub, settings)


def test_a_home_that_cant_be_written_is_explained(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(WeightsError, match="can't be written: Not a directory"):
        fetch(hub, Settings.from_env({"MAGENTA_HOME": str(tmp_path / "home")}))


def test_git_checksums_are_checked_too(tmp_path: Path) -> None:
    content = b"small enough for git itself"
    path = tmp_path / "file.model"
    path.write_bytes(content)
    etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    remote = download_module._RemoteFile("file.model", path, "", etag, len(content))
    assert remote.is_at(path)
    path.write_bytes(content[:-1] + b"!")
    assert not remote.is_at(path)


def test_the_demo_is_not_downloaded(settings: Settings) -> None:
    with pytest.raises(WeightsError, match="nothing to download"):
        download("demo", settings)


def command() -> list[str]:
    return [sys.executable, "-m", "magenta_bento.cli", "models", "download", "mrt2_small"]


def environment(hub: Hub, settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "MAGENTA_HOME": str(settings.magenta_home),
        "HF_ENDPOINT": hub.hub_url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
    }


def run(hub: Hub, settings: Settings) -> subprocess.CompletedProcess[str]:
    env = environment(hub, settings)
    return subprocess.run(command(), cwd=ROOT, env=env, capture_output=True, text=True)


def test_the_command_honours_hf_endpoint_and_is_quiet_without_a_terminal(
    hub: Hub, settings: Settings
) -> None:
    done = run(hub, settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("mrt2_small is complete")
    assert done.stderr == ""
    assert hub.transferred == NEEDED


def test_the_command_fails_with_one_sentence_and_never_prints_the_token(
    hub: Hub, settings: Settings
) -> None:
    hub.needs_token = "another"
    done = run(hub, settings)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "HTTP 401" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
