"""Uploads: every format we name, files that lie or bomb, and that nothing is left behind."""

import io
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import soundfile
from audio_files import (
    TONE_HZ,
    by_ffmpeg,
    by_libsndfile,
    file_bytes,
    id3_picture,
    loudest_hz,
    silent_flac,
    tone,
    tone_pcm,
    wav_bytes,
)
from decoding import assert_idle, decode_upload, spent_s
from hostile_audio import HOSTILE, LITTERED, MOST_BYTES, box

from magenta_bento.audio.container_chunks import MAX_MP4_BOXES, MAX_WAV_CHUNKS, has_too_many_chunks
from magenta_bento.audio.decode import DecodedAudio, DecodeLimits
from magenta_bento.audio.decode_limits import MAX_CHANNELS, MAX_SAMPLE
from magenta_bento.audio.encode import make_stream_encoder
from magenta_bento.audio.formats import AudioFormat, StreamFormat
from magenta_bento.audio.sniff import Kind, sniff
from magenta_bento.audio.tags import Tags
from magenta_bento.errors import InvalidInput, UndecodableAudio

LIMITS = DecodeLimits(max_seconds=60)
# A hostile file costs at most the processor time after which its decoder is killed, and besides as
# much as an honest one of the longest sound let in.
HOSTILE_DECODES = 600 / reference.SECONDS

BY_LIBSNDFILE = [
    *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    *(("WAV", subtype) for subtype in ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")),
    *(("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")),
    *(("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
]
BY_FFMPEG = {
    "m4a": ("-c:a", "aac", "-f", "ipod"),
    "m4a-faststart": ("-c:a", "aac", "-movflags", "faststart", "-f", "mp4"),
    "m4a-fragmented": ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-f", "mp4"),
    "alac": ("-c:a", "alac", "-f", "ipod"),
    "adts": ("-c:a", "aac", "-f", "adts"),
    "mp3-vbr": ("-c:a", "libmp3lame", "-q:a", "4", "-f", "mp3"),
    "mp3-bare": ("-c:a", "libmp3lame", "-write_xing", "0", "-id3v2_version", "0", "-f", "mp3"),
    "ogg-opus": ("-c:a", "libopus", "-f", "ogg"),
    "ogg-flac": ("-c:a", "flac", "-f", "ogg"),
    "wav-mp3": ("-c:a", "libmp3lame", "-f", "wav"),
}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After every test: no temporary file, and no process."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    yield
    assert list(home.iterdir()) == []
    assert_idle()


@contextmanager
def cheaply() -> Iterator[None]:
    """The block takes little of a processor, whatever else this machine does."""
    reference_s = reference.reference_cpu_s()
    before_s = spent_s()
    yield
    assert spent_s() - before_s < LIMITS.cpu_s + HOSTILE_DECODES * reference_s


def refused(path: Path, limits: DecodeLimits = LIMITS) -> InvalidInput:
    with cheaply(), pytest.raises(InvalidInput) as caught:
        decode_upload(path, limits)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message
    return caught.value


def assert_tone(decoded: DecodedAudio, seconds: float, channels: int, slack_s: float = 0.0) -> None:
    samples, rate = decoded.samples, decoded.sample_rate_hz
    assert samples.dtype == np.float32
    assert samples.shape[1] == channels
    assert abs(len(samples) / rate - seconds) <= slack_s
    for channel in samples.T:
        assert loudest_hz(channel, rate) == pytest.approx(TONE_HZ, abs=3)
        assert np.abs(channel).max() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(("format", "subtype"), BY_LIBSNDFILE)
def test_libsndfile_formats(format: str, subtype: str, tmp_path: Path) -> None:
    path = by_libsndfile(tmp_path / "upload.bin", tone(1.0), 48_000, format, subtype)
    # ADPCM has whole blocks only, and ffmpeg's Vorbis decoder begins a quarter of a block late.
    slack_s = 0.03 if "ADPCM" in subtype else 0.01 if subtype == "VORBIS" else 0.0
    assert_tone(decode_upload(path, LIMITS), 1.0, 2, slack_s)


@pytest.mark.parametrize("name", BY_FFMPEG)
def test_ffmpeg_formats(name: str, tmp_path: Path) -> None:
    path = by_ffmpeg(tmp_path / "UPLOAD.TXT", tone(1.0), 48_000, *BY_FFMPEG[name])
    assert_tone(decode_upload(path, LIMITS), 1.0, 2, slack_s=0.08)  # encoders pad


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 96_000, 192_000, 384_000])
def test_rates_are_kept(rate_hz: int, tmp_path: Path) -> None:
    path = by_libsndfile(tmp_path / "a", tone(1.0, rate_hz), rate_hz, "WAV", "PCM_16")
    decoded = decode_upload(path, LIMITS)
    assert decoded.sample_rate_hz == rate_hz
    assert_tone(decoded, 1.0, 2)


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_channels_are_kept(channels: int, tmp_path: Path) -> None:
    path = by_libsndfile(tmp_path / "a", tone(0.2, 48_000, channels), 48_000, "WAVEX", "PCM_16")
    assert_tone(decode_upload(path, LIMITS), 0.2, channels)


def test_samples_are_the_very_ones(tmp_path: Path) -> None:
    sent = np.random.default_rng(0).uniform(-1, 1, (200_000, 2)).astype(np.float32)
    path = by_libsndfile(tmp_path / "a", sent, 48_000, "WAV", "FLOAT")
    np.testing.assert_array_equal(decode_upload(path, LIMITS).samples, sent)


def test_ffmpeg_keeps_samples_and_channels_apart(tmp_path: Path) -> None:
    sent = np.random.default_rng(0).integers(-32_768, 32_768, (48_000, 2)) / np.float32(32_768)
    path = by_ffmpeg(tmp_path / "a", sent.astype(np.float32), 48_000, *BY_FFMPEG["alac"])
    np.testing.assert_array_equal(decode_upload(path, LIMITS).samples, sent)


@pytest.mark.parametrize("format", AudioFormat)
def test_our_own_files_come_back(format: AudioFormat, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(file_bytes(format, tone_pcm(48_000), Tags("t")))
    assert len(decode_upload(path, LIMITS).samples) == 48_000


@pytest.mark.parametrize("format", ["mp3", "wav", "ogg"])
def test_our_own_streams_come_back(format: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    encoder = make_stream_encoder(StreamFormat(format), Tags("t"), mp3_bitrate_kbps=256)
    path.write_bytes(encoder.feed(tone_pcm(48_000)) + encoder.finish())
    assert len(decode_upload(path, LIMITS).samples) == pytest.approx(48_000, abs=3_500)


@pytest.mark.parametrize("name", ["mp3", "ogg", "flac", "wav", "adts"])
def test_a_file_that_was_cut_gives_what_decodes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    if name == "adts":
        by_ffmpeg(path, tone(8), 48_000, *BY_FFMPEG["adts"])
    else:
        path.write_bytes(file_bytes(AudioFormat(name), tone_pcm(8 * 48_000), Tags("t")))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    decoded = decode_upload(path, LIMITS)
    assert 3 < len(decoded.samples) / 48_000 < 5
    assert loudest_hz(decoded.samples[:, 0], 48_000) == pytest.approx(TONE_HZ, abs=3)


def joined(folder: Path, options: tuple[str, ...]) -> bytes:
    """Two files of 2 s, one after the other: a chain of two links, for OGG."""
    return 2 * by_ffmpeg(folder / "part", tone(2.0), 48_000, *options).read_bytes()


@pytest.mark.parametrize("name", ["mp3-vbr", "mp3-bare", "ogg-opus", "ogg-flac", "adts"])
def test_all_of_a_joined_file_is_decoded(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(joined(tmp_path, BY_FFMPEG[name]))
    assert_tone(decode_upload(path, LIMITS), 4.0, 2, slack_s=0.1)


def test_all_of_an_mp3_whose_bit_rate_varies_without_a_header(tmp_path: Path) -> None:
    """Its first frames are so short that a guess from them is far off."""
    sound = tone(8.0)
    sound[: 4 * 48_000] = 0
    options = ("-c:a", "libmp3lame", "-q:a", "0", "-write_xing", "0", "-f", "mp3")
    path = by_ffmpeg(tmp_path / "a", sound, 48_000, *options)
    assert len(decode_upload(path, LIMITS).samples) / 48_000 == pytest.approx(8.0, abs=0.1)


def test_wav_whose_header_says_it_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a"
    data = (tone(1.0, channels=1) * 32_767).astype("<i2").tobytes()
    path.write_bytes(wav_bytes(data, claimed_bytes=0))
    assert_tone(decode_upload(path, LIMITS), 1.0, 1)


def test_mp3_that_starts_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(file_bytes(AudioFormat.mp3, tone_pcm(96_000), Tags())[5_000:])
    assert 1.5 < len(decode_upload(path, LIMITS).samples) / 48_000 < 2.1


@pytest.mark.parametrize("name", ["mp3", "adts"])
def test_a_large_picture_in_front(name: str, tmp_path: Path) -> None:
    plain = by_ffmpeg(
        tmp_path / "p", tone(1), 48_000, *BY_FFMPEG["adts" if name == "adts" else "mp3-bare"]
    )
    path = tmp_path / "a"
    path.write_bytes(id3_picture(6_000_000) + plain.read_bytes())
    assert_tone(decode_upload(path, LIMITS), 1.0, 2, slack_s=0.08)


def test_name_and_case_do_not_matter(tmp_path: Path) -> None:
    path = by_libsndfile(tmp_path / "x", tone(0.2), 48_000, "FLAC", "PCM_16")
    for name in ("LOUD.WAV", "none", "lies.mp3", "-i.m4a", "größe 🎹.xyz"):
        path = path.rename(tmp_path / name)
        assert_tone(decode_upload(path, LIMITS), 0.2, 2)


@pytest.mark.parametrize(
    "data",
    [
        b"just some words\n" * 4_000,
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD/>",
        b"\xff\xfe" + "words in UTF-16 ".encode("utf-16-le") * 4_000,
        b"\x89PNG\r\n\x1a\n" + bytes(2_000),
        b"\xff\xd8\xff\xe0" + bytes(range(256)) * 300,
        b"PK\x03\x04" + bytes(1_000),
        b"\xff" * 200_000,
        b"\xff\xfb\x90\x00" * 50_000,
        bytes(100_000),
        b"\0",
        b"ID3\x04\0\0\x7f\x7f\x7f\x7f",
        id3_picture(100_000) + b"words" * 9_000,
        np.random.default_rng(1).bytes(500_000),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_not_audio(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(data)
    error = refused(path)
    assert isinstance(error, UndecodableAudio)
    assert "MP3, WAV, FLAC, OGG" in error.message


@pytest.mark.parametrize("head", [b"fLaC", b"OggS", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x20ftypM4A "])
@pytest.mark.parametrize(
    "body",
    [b"", bytes(5_000), b"\xff" * 5_000, b"#EXTM3U\nfile:///etc/passwd\n" * 99],
    ids=["empty", "zeros", "ones", "playlist"],
)
def test_a_right_beginning_and_nothing_after(head: bytes, body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(head + body)
    assert isinstance(refused(path), UndecodableAudio)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert "holds no audio" in refused(tmp_path / "a.wav").message


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "m4a"])
def test_zero_samples(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    if name == "m4a":
        by_ffmpeg(path, tone(0), 48_000, *BY_FFMPEG["m4a"])
    elif name == "flac":  # libsndfile leaves an empty file
        by_ffmpeg(path, tone(0), 48_000, "-c:a", "flac", "-f", "flac")
    else:
        path.write_bytes(file_bytes(AudioFormat(name), tone_pcm(0), Tags()))
    assert "no audio" in refused(path).message


def test_missing_file_is_not_the_clients_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode_upload(tmp_path / "none", LIMITS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_samples_that_are_not_finite(value: float, tmp_path: Path) -> None:
    samples = tone(0.5).astype(np.float64)
    samples[12_345, 1] = value
    path = tmp_path / "a"
    path.write_bytes(wav_bytes(samples.tobytes(), channels=2, bits=64, code=3))
    assert "not finite" in refused(path).message


def test_samples_beyond_full_scale(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for value in (-2.0, MAX_SAMPLE):
        samples = tone(0.5)
        samples[12_345, 1] = value
        path.write_bytes(wav_bytes(samples.tobytes(), channels=2, bits=32, code=3))
        np.testing.assert_array_equal(decode_upload(path, LIMITS).samples, samples)
    samples[-1, 0] = -1.01 * MAX_SAMPLE
    path.write_bytes(wav_bytes(samples.tobytes(), channels=2, bits=32, code=3))
    assert "within 1000 times full scale, got 1010" in refused(path).message


@pytest.mark.parametrize("rate_hz", [1, 3_999, 384_001, 2**31 - 1])
def test_rates_out_of_bounds(rate_hz: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(wav_bytes(bytes(2_000), rate_hz=rate_hz))
    message = refused(path).message
    assert "4000 to 384000" in message
    assert str(rate_hz) in message


@pytest.mark.parametrize("channels", [9, 64])
def test_too_many_channels(channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(wav_bytes(bytes(channels * 200), channels=channels))
    message = refused(path).message
    assert f"1 to {MAX_CHANNELS}" in message
    assert str(channels) in message


def test_more_channels_than_ffmpeg_has_names_for(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(wav_bytes(bytes(1_024 * 200), channels=1_024))
    assert isinstance(refused(path), UndecodableAudio)


@pytest.mark.parametrize(
    "changed", [{"channels": 0}, {"rate_hz": 0}, {"bits": 0}, {"bits": 65_528}, {"code": 0x1234}]
)
def test_headers_that_make_no_sense(changed: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(wav_bytes(bytes(20_000), **changed))
    refused(path)


def test_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a"
    data = (tone(1.0, channels=1) * 32_767).astype("<i2").tobytes()
    for claimed in (2**32 - 1, 2**31, len(data) * 10):
        path.write_bytes(wav_bytes(data, claimed_bytes=claimed))
        assert_tone(decode_upload(path, LIMITS), 1.0, 1)


def test_too_long_names_the_bound_and_the_value(tmp_path: Path) -> None:
    path = silent_flac(tmp_path / "a", seconds=36_000)
    assert path.stat().st_size < 2_000_000
    for bound in (60, 600):
        error = refused(path, DecodeLimits(max_seconds=bound))
        assert not isinstance(error, UndecodableAudio)
        assert f"at most {bound} s" in error.message
        assert "36000 s" in error.message


@pytest.mark.parametrize("name", ["mp3-bare", "m4a", "adts", "ogg-flac"])
def test_too_long_in_formats_that_do_not_say(name: str, tmp_path: Path) -> None:
    path = by_ffmpeg(tmp_path / "a", tone(5.0, channels=1), 48_000, *BY_FFMPEG[name])
    assert "at most 4 s" in refused(path, DecodeLimits(max_seconds=4)).message
    assert decode_upload(path, DecodeLimits(max_seconds=5.2)).sample_rate_hz == 48_000


def test_exactly_the_bound_is_taken(tmp_path: Path) -> None:
    path = by_libsndfile(tmp_path / "a", tone(2.0), 48_000, "WAV", "PCM_16")
    assert len(decode_upload(path, DecodeLimits(max_seconds=2)).samples) == 96_000
    path = by_libsndfile(tmp_path / "a", tone(2.001), 48_000, "WAV", "PCM_16")
    assert "at most 2 s" in refused(path, DecodeLimits(max_seconds=2)).message


def test_too_many_bytes_names_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with soundfile.SoundFile(path, "w", 192_000, 8, "PCM_16", format="FLAC") as out:
        for _ in range(60):
            out.write(np.zeros((192_000, 8), np.int16))
    assert "256 MiB" in refused(path).message


def one_of_each_format(names: Iterable[str]) -> list[Any]:
    """All names, but only the first of each format for the short run: each takes seconds."""
    formats: set[str] = set()
    parameters = []
    for name in names:
        is_first = (format := name.partition(":")[0]) not in formats
        formats.add(format)
        parameters.append(pytest.param(name, marks=() if is_first else pytest.mark.long))
    return parameters


@pytest.mark.parametrize("name", one_of_each_format(HOSTILE))
def test_hostile_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(HOSTILE[name](tmp_path))
    assert path.stat().st_size <= MOST_BYTES
    refused(path, DecodeLimits.for_seconds(600))


@pytest.mark.parametrize("name", one_of_each_format(LITTERED))
def test_littered_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(LITTERED[name](tmp_path))
    assert path.stat().st_size <= MOST_BYTES
    with cheaply(), suppress(InvalidInput):
        decoded = decode_upload(path, DecodeLimits.for_seconds(600))
        assert 0.8 < len(decoded.samples) / decoded.sample_rate_hz <= 600


@pytest.mark.parametrize("seconds", [600, 3_600])
def test_limits_grow_with_the_audio_that_is_let_in(seconds: int) -> None:
    limits = DecodeLimits.for_seconds(seconds)
    assert (limits.cpu_s, limits.timeout_s) == (seconds / 150, seconds / 60)
    assert DecodeLimits.for_seconds(1) == DecodeLimits(1)


@pytest.mark.parametrize("kind", ["wav", "RIFX", "mp4", "mp4 of 64 bits"])
def test_an_honest_number_of_chunks_passes(kind: str) -> None:
    size = ">I" if kind == "RIFX" else "<I"
    junk = b"junk" + struct.pack(size, 3) + bytes(4)
    pieces = {
        "wav": [b"RIFF\0\0\0\0WAVE", junk, MAX_WAV_CHUNKS],
        "RIFX": [b"RIFX\0\0\0\0WAVE", junk, MAX_WAV_CHUNKS],
        "mp4": [b"", box(b"free", bytes(3)), MAX_MP4_BOXES],
        "mp4 of 64 bits": [b"", b"\0\0\0\1free" + struct.pack(">Q", 19) + bytes(3), MAX_MP4_BOXES],
    }
    front, piece, most = pieces[kind]
    container = Kind.mp4 if "mp4" in kind else Kind.wav
    assert not has_too_many_chunks(io.BytesIO(front + piece * most), container)
    assert has_too_many_chunks(io.BytesIO(front + piece * (most + 1)), container)


def test_sniff_tells_adts_from_mp3(tmp_path: Path) -> None:
    for name, kind in (("adts", Kind.aac), ("mp3-bare", Kind.mp3), ("m4a", Kind.mp4)):
        for rate_hz in (16_000, 22_050, 44_100, 48_000):
            path = by_ffmpeg(tmp_path / "a", tone(0.3, rate_hz), rate_hz, *BY_FFMPEG[name])
            with path.open("rb") as file:
                assert sniff(file) is kind
