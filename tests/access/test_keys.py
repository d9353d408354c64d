"""API keys: how they are written, found, changed and kept from sight."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from magenta_bento.access import keys as module
from magenta_bento.access.access_control import key_ring
from magenta_bento.access.keys import KeyRing
from magenta_bento.config import Settings
from magenta_bento.errors import ConfigError

ALICE = "alice-has-a-long-key-0123456789"
BOB = "bobs-key-is-not-short-0123456789"
CAROL = "carol-came-later-with-0123456789"


def name_of(ring: KeyRing, key: str) -> str | None:
    return asyncio.run(ring.name_of(key))


def digest(key: str) -> str:
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


@pytest.fixture(name="later")
def _later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets enough time pass for the file to be looked at again."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def pass_by() -> None:
        now[0] += module.LOOK_EVERY_S

    return pass_by


# How keys are written.


@pytest.mark.parametrize(
    ("listed", "key", "name"),
    [
        (f"alice:{ALICE}", ALICE, "alice"),
        (ALICE, ALICE, "key1"),
        (f"alice:{ALICE},{BOB}", BOB, "key2"),
        (f"  alice :  {ALICE} ,, bob:{BOB} , ", BOB, "bob"),
        (f"  alice :  {ALICE} ,, bob:{BOB} , ", ALICE, "alice"),
        (f"alice:{digest(ALICE)}", ALICE, "alice"),
        (digest(ALICE), ALICE, "key1"),
        (f"alice:{digest(ALICE).replace('sha256:', 'sha256: ')}", ALICE, "alice"),
        (f"alice:sha256:{digest(ALICE)[7:].upper()}", ALICE, "alice"),
        ("alice:a:key:with:colons:in:it", "a:key:with:colons:in:it", "alice"),
        ("alice:bGV0LW1lLWlu==", "bGV0LW1lLWlu==", "alice"),
        ("bGV0LW1lLWluLXBsZWFzZQ==", "bGV0LW1lLWluLXBsZWFzZQ==", "key1"),
        ("alice:two words, bob:x", "two words", "alice"),
        ("Алиса:" + ALICE, ALICE, "Алиса"),
        (f"alice:{ALICE},also alice:{ALICE}", ALICE, "also alice"),
    ],
)
def test_a_listed_key_is_known_by_its_name(listed: str, key: str, name: str) -> None:
    assert name_of(KeyRing(listed), key) == name


@pytest.mark.parametrize(
    "presented",
    [
        *("", "alice", ALICE[:-1], ALICE + " ", ALICE.upper(), f"alice:{ALICE}"),
        *(digest(ALICE), digest(ALICE)[7:], "ключ", "\udcff", "a" * 100_000),
    ],
)
def test_nothing_else_opens(presented: str) -> None:
    for listed in (f"alice:{ALICE}", f"alice:{digest(ALICE)}"):
        assert name_of(KeyRing(listed), presented) is None


@pytest.mark.parametrize(
    "text",
    [
        f"alice:{ALICE}\nbob:{digest(BOB)}\n",
        f"# ours\n\n  # theirs\r\n alice:{ALICE}  \r\n\r\nbob : {digest(BOB)}",
        f"\ufeffalice:{ALICE}\nbob:{BOB}",
    ],
)
def test_a_file_has_a_key_a_line(file: Path, text: str) -> None:
    file.write_bytes(text.encode())
    ring = KeyRing("", file)
    assert name_of(ring, ALICE) == "alice"
    assert name_of(ring, BOB) == "bob"
    for comment in ("# ours", "# theirs"):
        assert name_of(ring, comment) is None


def test_a_key_in_a_file_may_hold_what_separates_listed_ones(file: Path) -> None:
    file.write_text("alice:one,two#three\n")
    assert name_of(KeyRing("", file), "one,two#three") == "alice"


def test_a_file_adds_to_the_list(file: Path) -> None:
    file.write_text(f"{BOB}\ncarol:{CAROL}\n")
    ring = KeyRing(ALICE, file)
    assert [name_of(ring, key) for key in (ALICE, BOB, CAROL)] == ["key1", "filekey1", "carol"]


SECRET = "not-to-be-shown-0123456789"
WRONG = {
    f"alice:{SECRET},alice:{SECRET}x": "entry 2: two keys are called alice",
    f":{SECRET}": "entry 1: a name has 1 to 64 printable characters",
    f"{SECRET * 3}:x": "entry 1: a name has 1 to 64 printable characters",
    f"al\x07ice:{SECRET}": "entry 1: a name has 1 to 64 printable characters",
    f"bob:{SECRET},alice:": "entry 2: the key is empty",
    f"alice:sha256:{SECRET}": "entry 1: sha256: needs 64 hexadecimal digits",
    f"sha256:{SECRET}": "entry 1: sha256: needs 64 hexadecimal digits",
    "sha256:": "entry 1: sha256: needs 64 hexadecimal digits",
    f"alice:{digest(SECRET)[:-1]}": "entry 1: sha256: needs 64 hexadecimal digits",
    f"alice:{digest(SECRET)}00": "entry 1: sha256: needs 64 hexadecimal digits",
    f"alice:{SECRET}-ключ": "entry 1: a key has printable ASCII characters only",
    f"alice:{SECRET}\t{SECRET}": "entry 1: a key has printable ASCII characters only",
}


@pytest.mark.parametrize(("listed", "told"), WRONG.items())
def test_a_wrong_entry_is_named_by_its_place_alone(listed: str, told: str, file: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        KeyRing(listed)
    assert str(raised.value) == f"API_KEYS: {told}"
    file.write_text(listed.replace(",", "\n"))
    with pytest.raises(ConfigError) as raised:
        KeyRing("", file)
    assert str(raised.value) == f"API_KEYS_FILE: {told}"


def test_the_list_and_the_file_share_their_names(file: Path) -> None:
    file.write_text(f"alice:{SECRET}\n")
    with pytest.raises(ConfigError, match="API_KEYS_FILE: two keys are called alice"):
        KeyRing(f"alice:{ALICE}", file)


def test_a_key_without_a_name_may_not_take_another_ones() -> None:
    with pytest.raises(ConfigError, match="API_KEYS: entry 2: two keys are called key2"):
        KeyRing(f"key2:{ALICE},{BOB}")


@pytest.mark.parametrize("listed", ["", " ", ",", " , ,"])
def test_there_has_to_be_a_key(listed: str, file: Path) -> None:
    file.write_text("# none yet\n")
    with pytest.raises(ConfigError, match="hold no key"):
        KeyRing(listed)
    with pytest.raises(ConfigError, match="hold no key"):
        KeyRing(listed, file)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    for file in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(ConfigError, match=f"^API_KEYS_FILE: {file} can't be read: "):
            KeyRing(ALICE, file)


def test_a_file_of_bytes_is_told_without_them(file: Path) -> None:
    file.write_bytes(SECRET.encode("utf-16"))
    with pytest.raises(ConfigError, match="can't be read") as raised:
        KeyRing("", file)
    assert SECRET not in str(raised.value)


def test_keys_are_only_asked_for_where_the_setting_says_so(file: Path) -> None:
    file.write_text(f"bob:{BOB}\n")
    given = {"API_KEYS": f"alice:{ALICE}", "API_KEYS_FILE": str(file)}
    assert key_ring(Settings.from_env(given)) is None
    ring = key_ring(Settings.from_env({**given, "ENABLE_AUTH": "true"}))
    assert ring is not None
    assert [name_of(ring, key) for key in (ALICE, BOB)] == ["alice", "bob"]


# What is kept from sight.


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those after the one that fits: how long it takes tells nothing about its place."""
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    class Hmac:
        compare_digest = staticmethod(compare)

    ring = KeyRing(f"alice:{ALICE},bob:{BOB},carol:{digest(CAROL)}")
    monkeypatch.setattr(module, "hmac", Hmac)
    for presented, name in ((ALICE, "alice"), (CAROL, "carol"), ("wrong", None), ("", None)):
        compared.clear()
        assert name_of(ring, presented) == name
        assert compared == [(32, 32)] * 3


def test_no_key_is_kept_or_shown(file: Path) -> None:
    file.write_text(f"bob:{BOB}\n")
    ring = KeyRing(f"alice:{ALICE}", file)
    held = repr(vars(ring))
    assert "alice" in held
    assert ALICE not in held
    assert BOB not in held


def test_a_short_key_is_warned_about_and_not_shown(log: pytest.LogCaptureFixture) -> None:
    KeyRing(f"alice:{ALICE},bob:abc123,carol:{digest('abc123')}")
    (record,) = log.records
    assert record.levelno == logging.WARNING
    assert record.message == "API_KEYS: entry 2: a key of 6 characters may be guessed"


# A file that changes.


def test_a_changed_file_is_read_again_without_waiting_on_each_request(
    file: Path, later: Callable[[], None]
) -> None:
    file.write_text(f"alice:{ALICE}\n")
    ring = KeyRing("", file)
    file.write_text(f"alice:{ALICE}\nbob:{BOB}\n")
    assert name_of(ring, BOB) == "bob"  # the first one who asks looks
    file.write_text(f"bob:{BOB}\n")
    assert name_of(ring, ALICE) == "alice"
    later()
    assert name_of(ring, ALICE) is None
    assert name_of(ring, BOB) == "bob"


def test_a_file_that_stays_is_not_read_again(
    file: Path, later: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(f"alice:{ALICE}\n")
    ring = KeyRing("", file)

    def read(*_: object) -> str:
        raise AssertionError("it has not changed")

    monkeypatch.setattr(Path, "read_text", read)
    for _ in range(3):
        later()
        assert name_of(ring, ALICE) == "alice"


def test_a_replaced_file_of_the_same_size_and_time_is_seen(
    file: Path, tmp_path: Path, later: Callable[[], None]
) -> None:
    """As editors and deployments write: beside it, then renamed over it."""
    file.write_text(f"alice:{ALICE}\n")
    os.utime(file, ns=(1, 1))
    ring = KeyRing("", file)
    other = tmp_path / "keys.txt.new"
    other.write_text(f"alice:{ALICE[::-1]}\n")
    os.utime(other, ns=(1, 1))
    assert other.stat().st_size == file.stat().st_size
    other.rename(file)
    later()
    assert name_of(ring, ALICE) is None
    assert name_of(ring, ALICE[::-1]) == "alice"


def test_a_swapped_link_is_seen(tmp_path: Path, later: Callable[[], None]) -> None:
    """Kubernetes: keys.txt -> ..data/keys.txt, and ..data -> a folder for each version."""
    for version, key in (("1", ALICE), ("2", ALICE[::-1])):
        folder = tmp_path / f"..version-{version}"
        folder.mkdir()
        (folder / "keys.txt").write_text(f"alice:{key}\n")
        os.utime(folder / "keys.txt", ns=(1, 1))
    data = tmp_path / "..data"
    data.symlink_to("..version-1")
    file = tmp_path / "keys.txt"
    file.symlink_to("..data/keys.txt")
    ring = KeyRing("", file)
    assert name_of(ring, ALICE) == "alice"
    swapped = tmp_path / "..data_tmp"
    swapped.symlink_to("..version-2")
    swapped.rename(data)
    later()
    assert name_of(ring, ALICE) is None
    assert name_of(ring, ALICE[::-1]) == "alice"


@pytest.mark.parametrize(
    "broken", [f"alice:{ALICE}\nalice:{SECRET}\n", f"alice:sha256:{SECRET}", None, b"\xff\xfe"]
)
def test_a_file_that_breaks_keeps_the_keys_and_is_told_once(
    broken: str | bytes | None,
    file: Path,
    later: Callable[[], None],
    log: pytest.LogCaptureFixture,
) -> None:
    file.write_text(f"alice:{ALICE}\n")
    ring = KeyRing(f"bob:{BOB}", file)
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(broken.encode() if isinstance(broken, str) else broken)
    for _ in range(3):
        later()
        assert [name_of(ring, key) for key in (ALICE, BOB)] == ["alice", "bob"]
    (record,) = log.records
    assert record.levelno == logging.ERROR
    assert "the keys stay as they were" in record.message
    assert SECRET not in log.text
    file.write_text(f"carol:{CAROL}\n")
    later()
    assert [name_of(ring, key) for key in (ALICE, BOB, CAROL)] == [None, "bob", "carol"]
    assert log.messages[1:] == ["API_KEYS_FILE has changed: there are 2 keys"]


def test_an_emptied_file_takes_its_keys_away(file: Path, later: Callable[[], None]) -> None:
    file.write_text(f"alice:{ALICE}\n")
    ring = KeyRing("", file)
    file.write_text("# all withdrawn\n")
    later()
    assert name_of(ring, ALICE) is None
