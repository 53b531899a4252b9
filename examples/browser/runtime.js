// What `lightning-audio export` wrote, at work in a browser: answers as those of lightning_audio.Runtime.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more of them need a page that is isolated from others

export async function load(url) {
  const [content, card] = await Promise.all([
    fetch(url).then((response) => told(response).arrayBuffer()),
    fetch(`${url}.json`).then((response) => told(response).json()),
  ]);
  return new Model(await ort.InferenceSession.create(new Uint8Array(content)), card);
}

function told(response) {
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${response.statusText}`);
  return response;
}

class Model {
  constructor(session, card) {
    if (!card.rule) throw new Error("The model transcribes speech: this page names sounds.");
    Object.assign(this, { session, card, rate: card.facts.sample_rate, labels: card.facts.labels });
  }

  // Samples of one channel at `rate` -> { labels, scores, score }.
  async predict(samples) {
    const found = [];
    for (const window of this.windows(samples)) {
      const { scores } = await this.session.run({
        waveforms: new ort.Tensor("float32", window, [1, window.length]),
        lengths: new ort.Tensor("int64", BigInt64Array.of(BigInt(window.length)), [1]),
      });
      found.push([...scores.data]);
    }
    const scores = overWindows(this.card.rule, found);
    const labels = chosen(this.card.rule, scores).map((column) => this.labels[column]);
    return { labels, scores, score: Math.max(...scores) };
  }

  // As in training where it is no longer than those clips; otherwise windows, half of one apart.
  windows(samples) {
    const { clip_seconds, longest_seconds } = this.card.facts;
    const size = Math.max(Math.round(clip_seconds * this.rate), 1);
    const hop = Math.max(Math.round((clip_seconds / 2) * this.rate), 1);
    const whole = longest_seconds ? Math.max(Math.round(longest_seconds * this.rate), size) : 1.25 * size;
    if (samples.length <= whole) return [samples];
    const starts = [];
    for (let start = 0; start + size <= samples.length; start += hop) starts.push(start);
    if (samples.length - size - starts.at(-1) > hop / 4) starts.push(samples.length - size);
    return starts.map((start, i) =>
      samples.slice(start, i + 1 < starts.length ? start + size : samples.length));
  }
}

function overWindows(rule, rows) {
  const columns = rows[0].map((_, column) => rows.map((row) => row[column]));
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  if (rule.kind === "best") return columns.map((column) => sum(column) / column.length);
  const highest = columns.map((column) => Math.max(...column));
  if (rule.kind === "above") return highest;
  // A keyword is one in whatever window it comes; the background shares what it leaves.
  const background = new Set(rule.background);
  const sums = columns.map((column, i) => (background.has(i) ? Math.max(sum(column), 1e-12) : 0));
  const best = Math.max(...highest.map((value, i) => (background.has(i) ? 0 : value)));
  const together = highest.map((value, i) => (background.has(i) ? ((1 - best) * sums[i]) / sum(sums) : value));
  return together.map((value) => value / sum(together));
}

function chosen(rule, scores) {
  if (rule.kind !== "above") return [scores.indexOf(Math.max(...scores))];
  return scores.flatMap((score, column) => (score >= rule.thresholds[column] ? [column] : []));
}

// Keywords of a model that was exported with --streaming: { time, label, score } as they come.
export class Stream {
  constructor(model) {
    const told = model.card.stream, rules = { on: 0.5, min_gap: 1, smooth: 1, ignore: [], ...told.detection };
    Object.assign(this, { model, told, rules });
    this.off = rules.off ?? (rules.release ? rules.release * rules.on : 0.3);
    this.waiting = new Float32Array(told.n_fft >> 1);
    this.state = told.states.map((shape) => new ort.Tensor("float32", new Float32Array(size(shape)), shape));
    this.recent = [];
    this.rows = 0;
    this.active = model.labels.map(() => false);
    this.latest = model.labels.map(() => -Infinity);
  }

  async push(samples) {
    const { frames, hop, n_fft } = this.told, found = [];
    const needed = (frames - 1) * hop + n_fft;
    this.waiting = joined(this.waiting, samples);
    while (this.waiting.length >= Math.max(needed, frames * hop)) {
      found.push(...(await this.step(this.waiting.slice(0, needed))));
      this.waiting = this.waiting.slice(frames * hop);
    }
    return found;
  }

  async step(samples) {
    const feeds = { samples: new ort.Tensor("float32", samples, [1, samples.length]) };
    this.state.forEach((tensor, i) => (feeds[`state${i}`] = tensor));
    const given = await this.model.session.run(feeds);
    this.state = this.state.map((_, i) => given[`state${i} then`]);
    const width = this.model.labels.length, found = [];
    for (let at = 0; at < given.scores.data.length; at += width)
      found.push(...this.heard([...given.scores.data.slice(at, at + width)]));
    return found;
  }

  heard(scores) {
    const { on, min_gap, smooth, ignore } = this.rules, found = [];
    this.recent = [...this.recent, scores].slice(-smooth);
    const time = this.rows++ * this.model.card.frame_seconds;
    this.model.labels.forEach((label, column) => {
      if (ignore.includes(label)) return;
      const score = this.recent.reduce((sum, row) => sum + row[column], 0) / this.recent.length;
      const was = this.active[column];
      this.active[column] = score >= on || (was && score >= this.off);
      if (!was && this.active[column] && time - this.latest[column] >= min_gap - 1e-9) {
        this.latest[column] = time;
        found.push({ time, label, score });
      }
    });
    return found;
  }
}

const size = (shape) => shape.reduce((product, side) => product * side, 1);

export function joined(one, other) {
  const both = new Float32Array(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both;
}
