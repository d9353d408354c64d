"""Files that leave: what they decode to, how long they are, what they say of themselves."""

import io
import subprocess
from pathlib import Path

import imageio_ffmpeg
import mutagen
import numpy as np
import pytest
import soundfile
from audio_files import TONE_HZ, ffmpeg, file_bytes, loudest_hz, tone_pcm
from mutagen.mp3 import MP3, BitrateMode

from magenta_bento.audio.encode import make_file_encoder, make_stream_encoder
from magenta_bento.audio.formats import FRAME_SAMPLES, AudioFormat, StreamFormat
from magenta_bento.audio.tags import MAX_TAG_CHARS, Tags, id3v2, one_line, riff_info

LENGTHS = [1, FRAME_SAMPLES, FRAME_SAMPLES + 1, 48_000, 131_072, 480_000]
TAGS = Tags("disco 🪩 größe", "Magenta RealTime 2", "seed 42", "magenta-bento 1.2.3", "2026-01-31")
BARE = Tags()
MP3_DELAY_SAMPLES = 576 + 529  # LAME's encoder and any decoder


def whole(format: AudioFormat, samples: int = 96_000, tags: Tags = TAGS, kbps: int = 256) -> bytes:
    return file_bytes(format, tone_pcm(samples), tags, kbps)


def streamed(format: StreamFormat, samples: int, kbps: int = 256) -> list[bytes]:
    encoder = make_stream_encoder(format, TAGS, mp3_bitrate_kbps=kbps)
    pcm = tone_pcm(samples)
    starts = range(0, samples, FRAME_SAMPLES)
    chunks = [encoder.feed(pcm[start : start + FRAME_SAMPLES]) for start in starts]
    return [*chunks, encoder.finish()]


def read(data: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == 48_000
    return samples


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("format", AudioFormat)
def test_whole_is_as_long_as_what_was_fed(format: AudioFormat, samples: int) -> None:
    assert read(whole(format, samples)).shape == (samples, 2)


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_lossless_is_exact(format: str) -> None:
    noise = np.random.default_rng(0).integers(-32_768, 32_768, (50_000, 2)).astype(np.int16)
    np.testing.assert_array_equal(read(file_bytes(AudioFormat(format), noise, TAGS)), noise)


@pytest.mark.parametrize("format", ["mp3", "ogg"])
def test_lossy_is_close_and_keeps_its_channels(format: str) -> None:
    got, sent = read(whole(AudioFormat(format))), tone_pcm(96_000)
    assert loudest_hz(got[:, 0].astype(np.float32), 48_000) == pytest.approx(TONE_HZ, abs=1)
    assert loudest_hz(got[:, 1].astype(np.float32), 48_000) == pytest.approx(2 * TONE_HZ, abs=1)
    error = (got.astype(float) - sent)[4_800:-4_800]
    assert np.sqrt(np.mean(error**2)) < 0.02 * 16_000


@pytest.mark.parametrize("kbps", [192, 224, 256, 320])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_mp3_has_the_very_bit_rate(kbps: int, is_streamed: bool) -> None:
    if is_streamed:
        data = b"".join(streamed(StreamFormat.mp3, 96_000, kbps))
    else:
        data = whole(AudioFormat.mp3, kbps=kbps)
    info = MP3(io.BytesIO(data)).info
    assert (info.bitrate, info.sample_rate, info.channels) == (kbps * 1_000, 48_000, 2)
    assert is_streamed or info.bitrate_mode is BitrateMode.CBR
    frames = {data[at : at + 4] for at in range(len(id3v2(TAGS)), len(data), 3 * kbps)}
    assert {frame[:2] for frame in frames} == {b"\xff\xfb"}  # every frame where CBR puts it
    assert len({frame[2] >> 4 for frame in frames}) == 1


@pytest.mark.parametrize("format", AudioFormat)
def test_same_music_same_bytes(format: AudioFormat) -> None:
    """However it was cut into blocks."""
    data = whole(format)
    assert data == whole(format)
    encoder = make_file_encoder(format, TAGS, 256)
    blocks = np.split(tone_pcm(96_000), [1, 7_777, 50_000])
    assert b"".join([*map(encoder.feed, blocks), encoder.finish()]) == data


def test_ogg_holds_opus_at_the_bit_rate_that_is_named() -> None:
    seconds = 10
    noise = np.random.default_rng(0).normal(0, 4_000, (seconds * 48_000, 2)).astype(np.int16)
    data = file_bytes(AudioFormat.ogg, noise, BARE)
    assert soundfile.info(io.BytesIO(data)).subtype == "OPUS"
    assert len(data) * 8 / seconds == pytest.approx(192_000, rel=0.1)


def test_ogg_can_be_played_from_anywhere() -> None:
    data = whole(AudioFormat.ogg)
    samples = read(data)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        for start in (50_000, 1, 95_000):
            file.seek(start)
            np.testing.assert_array_equal(file.read(500, "int16"), samples[start : start + 500])


@pytest.mark.parametrize("kbps", [None, 128])
def test_mp3_bit_rate_that_is_not_offered(kbps: int | None) -> None:
    with pytest.raises(ValueError, match="mp3_bitrate_kbps"):
        make_stream_encoder(StreamFormat.mp3, BARE, mp3_bitrate_kbps=kbps)
    with pytest.raises(ValueError, match="mp3_bitrate_kbps"):
        make_file_encoder(AudioFormat.mp3, BARE, kbps or 0)


def test_other_arrays_are_refused() -> None:
    for wrong in (np.zeros((10, 2), np.float32), np.zeros((10, 1), np.int16), np.zeros(10, "i2")):
        with pytest.raises(ValueError, match="int16"):
            file_bytes(AudioFormat.wav, wrong, BARE)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", AudioFormat)
def test_any_memory_order_is_taken(format: AudioFormat) -> None:
    pcm = np.asfortranarray(tone_pcm(4_800))
    assert np.array_equal(read(file_bytes(format, pcm, BARE)), read(whole(format, 4_800, BARE)))


@pytest.mark.parametrize("format", ["mp3", "wav", "ogg"])
def test_stream_sends_as_it_goes_and_decodes_the_same(format: str) -> None:
    chunks = streamed(StreamFormat(format), 96_000)
    data = b"".join(chunks)
    assert chunks[0]
    assert len(b"".join(chunks[: len(chunks) // 2])) > 0.3 * len(data)
    pipe = ffmpeg("-i", "pipe:0", "-f", "s16le", "-", stdin=data)  # a player without seeking
    got = np.frombuffer(pipe, np.int16).reshape(-1, 2)
    # A stream of Opus has a lower bit rate than a file has.
    expected = read(data if format == "ogg" else whole(AudioFormat(format)))
    if format == "mp3":  # no header to say how long LAME's lead-in and padding are
        assert 96_000 <= len(got) - MP3_DELAY_SAMPLES < 96_000 + 2 * 1_152
        got = got[MP3_DELAY_SAMPLES:][:96_000]
    assert got.shape == (96_000, 2)
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_streamed_headers_say_length_unknown() -> None:
    wav = b"".join(streamed(StreamFormat.wav, 4_800))
    assert wav[4:8] == b"\xff" * 4
    assert wav[-4_800 * 4 - 8 : -4_800 * 4] == b"data" + b"\xff" * 4
    assert read(wav).shape == (4_800, 2)


def test_flac_says_how_long_it_is() -> None:
    streaminfo_total = whole(AudioFormat.flac, 4_800)[18:26]
    assert int.from_bytes(streaminfo_total) & (1 << 36) - 1 == 4_800


def test_stream_of_nothing_is_a_file_without_samples() -> None:
    encoder = make_stream_encoder(StreamFormat.wav, BARE)
    assert encoder.finish()[:4] == b"RIFF"


def test_wav_header_is_true() -> None:
    data = whole(AudioFormat.wav, 4_801)
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert len(data) == 44 + len(riff_info(TAGS)) + 4_801 * 4


@pytest.mark.parametrize("is_streamed", [False, True])
def test_tags_read_back_by_mutagen(is_streamed: bool) -> None:
    def made(format: str) -> mutagen.FileType:
        if is_streamed:
            return mutagen.File(io.BytesIO(b"".join(streamed(StreamFormat(format), 9_600))))
        return mutagen.File(io.BytesIO(whole(AudioFormat(format), 9_600)))

    mp3 = made("mp3").tags
    assert [str(mp3[key]) for key in ("TIT2", "TPE1", "COMM::eng", "TSSE", "TDRC")] == [
        *(TAGS.title, TAGS.artist, TAGS.comment, TAGS.software, TAGS.date)
    ]
    for format in ["ogg"] if is_streamed else ["ogg", "flac"]:
        comments = made(format).tags
        assert comments["title"] == [TAGS.title]
        assert comments["artist"] == [TAGS.artist]
        assert comments["comment"] == [TAGS.comment]
        assert comments["date"] == [TAGS.date]
        assert TAGS.software in " ".join(value for _, value in comments)


@pytest.mark.parametrize("format", AudioFormat)
def test_tags_read_back_by_ffmpeg(format: AudioFormat) -> None:
    said = ffmpeg("-i", "pipe:0", "-f", "ffmetadata", "-", stdin=whole(format, 9_600)).decode()
    said += subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", "pipe:0"],
        input=whole(format, 9_600),
        capture_output=True,
    ).stderr.decode()  # OGG's tags belong to its stream, and only show here
    for text in (TAGS.title, TAGS.artist, TAGS.comment, TAGS.software):
        assert text in said


@pytest.mark.parametrize("format", AudioFormat)
def test_tags_change_no_sample(format: AudioFormat) -> None:
    np.testing.assert_array_equal(read(whole(format)), read(whole(format, tags=BARE)))


@pytest.mark.parametrize("format", AudioFormat)
def test_any_title_is_taken(format: AudioFormat, tmp_path: Path) -> None:
    nasty = "a\0b\r\nc\u2028d \ud800 🎹" + "x" * 100_000
    data = whole(format, 4_800, Tags(title=nasty, comment="\0\n"))
    assert read(data).shape == (4_800, 2)
    shown = one_line(nasty)
    assert shown.startswith("a b c d 🎹xxx")
    assert len(shown) == MAX_TAG_CHARS
    if format is not AudioFormat.wav:  # mutagen does not read LIST/INFO
        tags = mutagen.File(io.BytesIO(data)).tags
        assert str(tags["TIT2"]) == shown if format is AudioFormat.mp3 else tags["title"] == [shown]


def test_no_tags_no_bytes() -> None:
    assert id3v2(BARE) == riff_info(BARE) == b""
    assert len(whole(AudioFormat.wav, 10, BARE)) == 44 + 40
