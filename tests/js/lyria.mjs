// Google's own JavaScript SDK against a server: node lyria.mjs http://localhost:3000
// Prints what it heard, as JSON.
import { GoogleGenAI } from "@google/genai";

const SECONDS = 10;
const BYTES_PER_SECOND = 48_000 * 4;

const ai = new GoogleGenAI({
  apiKey: "secret-of-javascript",
  httpOptions: { apiVersion: "v1alpha", baseUrl: process.argv[2] },
});

let bytes = 0;
let loudest = 0;
let isSetUp = false;
let source = null;
let awaited = null; // { bytes, resolve }
const mimeTypes = new Set();

function take(message) {
  isSetUp ||= message.setupComplete !== undefined;
  for (const chunk of message.serverContent?.audioChunks ?? []) {
    const data = Buffer.from(chunk.data, "base64");
    bytes += data.length;
    for (let i = 0; i < data.length; i += 2) {
      loudest = Math.max(loudest, Math.abs(data.readInt16LE(i)));
    }
    mimeTypes.add(chunk.mimeType);
    source = chunk.sourceMetadata;
  }
  if (awaited !== null && bytes >= awaited.bytes) awaited.resolve();
}

function hear(seconds) {
  return new Promise((resolve) => {
    awaited = { bytes: bytes + seconds * BYTES_PER_SECOND, resolve };
  });
}

function fail(why) {
  console.error(why);
  process.exit(1);
}

let closing = false;
const session = await ai.live.music.connect({
  model: "models/lyria-realtime-exp",
  callbacks: {
    onmessage: take,
    onerror: (event) => fail(event.error ?? event),
    onclose: (event) => closing || fail(`closed: ${event.code} ${event.reason}`),
  },
});
await session.setWeightedPrompts({
  weightedPrompts: [
    { text: "disco funk", weight: 1.0 },
    { text: "slow piano", weight: 0.3 },
  ],
});
await session.setMusicGenerationConfig({
  musicGenerationConfig: { bpm: 90, temperature: 1.0, topK: 30, guidance: 3.5, seed: 5 },
});
session.play();
await hear(SECONDS / 2);
session.resetContext();
await hear(SECONDS / 2);
session.pause();
session.play();
await hear(1);
session.stop();
closing = true;
session.close();
const seconds = bytes / BYTES_PER_SECOND;
console.log(JSON.stringify({ isSetUp, seconds, loudest, mimeTypes: [...mimeTypes], source }));
process.exit(0);
