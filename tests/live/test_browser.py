"""What a browser makes of the server: it plays streams, and reads pages from nowhere else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from chromium import NAMES, tab
from conftest import until_idle
from programs import program
from serving import Server

DECODE = """
(async () => {
  const reply = await fetch("/stream/text?prompt=disco%%20funk&duration=4&seed=1&format=%s");
  const heard = await new AudioContext({sampleRate: 48000})
    .decodeAudioData(await reply.arrayBuffer());
  let sum = 0, quiet = 0, longestQuiet = 0;
  for (const x of heard.getChannelData(0)) {
    sum += x * x;
    quiet = Math.abs(x) < 1e-4 ? quiet + 1 : 0;
    longestQuiet = Math.max(longestQuiet, quiet);
  }
  return {
    type: reply.headers.get("content-type"),
    seconds: heard.duration,
    channels: heard.numberOfChannels,
    rms: Math.sqrt(sum / heard.length),
    longestQuiet: longestQuiet / 48000,
  };
})()
"""

PLAY = """
(async () => {
  const player = document.createElement("audio");
  player.src = "/stream/text?prompt=disco%20funk&seed=1&duration=0";
  document.body.append(player);
  const context = new AudioContext();
  const meter = new AnalyserNode(context, {fftSize: 2048});
  context.createMediaElementSource(player).connect(meter).connect(context.destination);
  await player.play();
  let loudest = 0;
  await new Promise((resolve, reject) => {
    player.onerror = () => reject(player.error.message);
    player.ontimeupdate = () => {
      const samples = new Float32Array(meter.fftSize);
      meter.getFloatTimeDomainData(samples);
      loudest = Math.max(loudest, ...samples.map(Math.abs));
      if (player.currentTime > 1) resolve();
    };
  });
  const at = player.currentTime;
  player.pause();
  player.removeAttribute("src");
  player.load();  // drops the connection
  return {at, loudest};
})()
"""

JAM = """
new Promise((resolve, reject) => {
  const socket = new WebSocket(`ws://${location.host}/ws/jam`);
  socket.binaryType = "arraybuffer";
  let bytes = 0, loudest = 0;
  socket.onopen = () => socket.send(JSON.stringify(
    {type: "start", prompts: [{text: "disco funk"}], seed: 1}));
  socket.onmessage = ({data}) => {
    if (typeof data === "string") return;
    bytes += data.byteLength;
    for (const x of new Int16Array(data)) loudest = Math.max(loudest, Math.abs(x));
    if (bytes >= 48000 * 4) { socket.close(); resolve({loudest}); }
  };
  socket.onerror = reject;
})
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    return program(*NAMES)


@pytest.mark.parametrize("format", ["mp3", "ogg", "wav"])
async def test_a_page_decodes_a_stream_and_hears_music(
    server: Server, chromium: str, tmp_path: Path, format: str
) -> None:
    async with tab(chromium, tmp_path / "profile") as page:
        await page.open(f"{server.url}/docs")
        heard = await page.run(DECODE % format)
    assert heard["seconds"] == pytest.approx(4.0, abs=0.08)  # an MP3 ends with a whole frame
    assert heard["channels"] == 2
    assert heard["rms"] > 0.01
    assert heard["longestQuiet"] < 0.1


async def test_an_audio_element_plays_while_the_music_is_made(
    server: Server, chromium: str, tmp_path: Path
) -> None:
    """The music has no end: what plays, plays before it is complete."""
    async with tab(chromium, tmp_path / "profile") as page:
        await page.open(f"{server.url}/docs")
        heard = await page.run(PLAY)
        assert heard["at"] > 1
        assert heard["loudest"] > 0.01
        # The element let go of its source: the slot is free though the page is open.
        await asyncio.to_thread(until_idle, server)


async def test_a_page_jams(server: Server, chromium: str, tmp_path: Path) -> None:
    async with tab(chromium, tmp_path / "profile") as page:
        await page.open(f"{server.url}/docs")
        assert (await page.run(JAM))["loudest"] > 1_000


@pytest.mark.parametrize(
    ("path", "shown"), [("/docs", "/generate/text"), ("/redoc", "/generate/text")]
)
async def test_the_pages_need_no_other_host(
    server: Server, chromium: str, tmp_path: Path, path: str, shown: str
) -> None:
    wait = f"""
    new Promise((resolve) => {{
      const look = () => document.body.innerText.includes("{shown}")
        ? resolve(document.title) : setTimeout(look, 50);
      look();
    }})
    """
    async with tab(chromium, tmp_path / "profile") as page:
        await page.open(f"{server.url}{path}")
        async with asyncio.timeout(60):
            await page.run(wait)
        await page.run("new Promise((resolve) => requestIdleCallback(resolve))")
        elsewhere = [url for url in page.requested if not _is_ours(url, server)]
        assert elsewhere == []
        # ReDoc wants its logo from a CDN, which the page forbids.
        assert [word for word in page.complaints if "logo-mini.svg" not in word] == []


def _is_ours(url: str, server: Server) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob") or parts.netloc == urlsplit(server.url).netloc
