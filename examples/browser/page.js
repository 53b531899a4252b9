import { Stream, joined, load } from "./runtime.js";

const at = (id) => document.getElementById(id);
const name = new URLSearchParams(location.search).get("model") ?? "demo.onnx";

function tell(...cells) {
  const row = at("heard").insertRow();
  for (const cell of cells) row.insertCell().textContent = cell;
}

// Of one channel at the rate of the model; the browser resamples.
async function decoded(file, rate) {
  const audio = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));
  return channels[0].map((_, i) => channels.reduce((sum, one) => sum + one[i], 0) / channels.length);
}

function tellAnswer(file, second, { labels, score }) {
  tell(file, second, labels.join(", ") || "nothing", score.toFixed(6));
}

async function hearFile(model, file) {
  const samples = await decoded(file, model.rate);
  if (!model.card.stream) return tellAnswer(file.name, "", await model.predict(samples));
  const stream = new Stream(model), piece = Math.round(model.rate / 50);
  for (let start = 0; start < samples.length; start += piece)
    for (const { time, label, score } of await stream.push(samples.subarray(start, start + piece)))
      tell(file.name, time.toFixed(3), label, score.toFixed(6));
}

async function hearMicrophone(model) {
  const context = new AudioContext({ sampleRate: model.rate });
  const source = context.createMediaStreamSource(await navigator.mediaDevices.getUserMedia({ audio: true }));
  await context.audioWorklet.addModule("microphone.js");
  const microphone = new AudioWorkletNode(context, "microphone");
  const stream = model.card.stream && new Stream(model);
  const clip = Math.round(model.card.facts.clip_seconds * model.rate);
  let waiting = new Float32Array(0), seconds = 0, work = Promise.resolve();
  const hear = async (samples) => {
    seconds += samples.length / model.rate;
    if (stream) {
      for (const { time, label, score } of await stream.push(samples))
        tell("microphone", time.toFixed(1), label, score.toFixed(2));
      return;
    }
    waiting = joined(waiting, samples);
    if (waiting.length < clip) return;
    tellAnswer("microphone", seconds.toFixed(1), await model.predict(waiting.slice(0, clip)));
    waiting = waiting.slice(clip >> 1);
  };
  microphone.port.onmessage = ({ data }) => (work = work.then(() => hear(data)).catch(fail));
  source.connect(microphone);
}

function fail(error) {
  at("status").textContent = `${error.message ?? error}`;
}

try {
  const model = await load(name);
  at("status").textContent = `${name} listens for ${model.labels.join(", ")}.`;
  at("files").disabled = at("microphone").disabled = false;
  at("files").onchange = async () => {
    for (const file of at("files").files)
      await hearFile(model, file).catch((error) => tell(file.name, "", `can't be read: ${error.message}`, ""));
    at("status").textContent = `${at("files").files.length} files were heard.`;
  };
  at("microphone").onclick = () => hearMicrophone(model).catch(fail);
} catch (error) {
  fail(error);
}
