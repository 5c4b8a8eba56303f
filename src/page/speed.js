// The speed test: manifests of all mirrors at once, layers one after the other, so that they don't
// share the visitor's line.
import { MANIFESTS, apiUrl, base, byId, bytes, copiesOnClick, data, element, parseImage, text, time } from "./page.js";
import { sha256 } from "./sha256.js";

/** Bytes. A larger layer is not downloaded. */
const MAX_LAYER = 32e6;
/** Milliseconds: of a whole test, of its manifests, and of one layer. */
const WHOLE = 29_000, MANIFEST = 6_000, LAYER = 8_000, REACH = 5_000;
const MAX_MIRRORS = 30;
const DEFAULT_IMAGE = "library/alpine:latest";

let running = null;

/** Why an exchange failed, as a text's key. */
class Failure extends Error {
  constructor(key, values = {}) {
    super(key);
    this.key = key;
    this.values = values;
  }
}

/** Runs `work` with a signal that ends it after `limit`, or when the test is stopped. */
async function within(limit, stop, work) {
  const controller = new AbortController();
  const abort = () => controller.abort();
  if (stop.aborted) abort();
  stop.addEventListener("abort", abort);
  const timer = setTimeout(abort, limit);
  try {
    return await work(controller.signal);
  } finally {
    clearTimeout(timer);
    stop.removeEventListener("abort", abort);
  }
}

const broken = signal => new Failure(signal.aborted ? "whyTime" : "whyBroken");

function ofStatus(status) {
  const keys = { 401: "whyPrivate", 404: "whyMissing", 429: "whyLimit", 504: "whyTime" };
  return new Failure(keys[status] ?? "whyFailed", { status });
}

async function fetchManifest(row, image, reference, signal) {
  let response, body;
  try {
    response = await fetch(apiUrl(row.host, `${image.name}/manifests/${reference}`),
      { headers: { accept: MANIFESTS }, cache: "no-store", signal });
    body = new Uint8Array(await response.arrayBuffer());
  } catch {
    throw broken(signal);
  }
  if (!response.ok) {
    const { errors } = safeJson(body) ?? {};
    if (errors?.[0]?.message?.startsWith("upstream not allowed")) throw new Failure("whyDenied");
    throw ofStatus(response.status);
  }
  const expected = reference.includes(":") ? reference : response.headers.get("docker-content-digest");
  if (expected?.startsWith("sha256:") && `sha256:${await sha256([body], body.length)}` !== expected) {
    throw new Failure("wrongManifest");
  }
  return safeJson(body) ?? {};
}

function safeJson(body) {
  try {
    return JSON.parse(new TextDecoder().decode(body));
  } catch {
    return null;
  }
}

/** Finds the largest layer that may be downloaded, and measures the manifest that was asked for. */
async function findLayer(row, image, signal) {
  const begun = performance.now();
  let manifest = await fetchManifest(row, image, image.reference, signal);
  row.manifest = performance.now() - begun;
  if (manifest.manifests) {
    const usual = manifest.manifests.find(({ platform }) => platform?.os === "linux" && platform.architecture === "amd64");
    const entry = usual ?? manifest.manifests[0];
    if (!entry) throw new Failure("whyEmpty");
    manifest = await fetchManifest(row, image, entry.digest, signal);
  }
  const fitting = (manifest.layers ?? []).filter(({ size }) => size > 0 && size <= MAX_LAYER);
  const layer = fitting.sort((one, other) => other.size - one.size)[0];
  if (!layer) throw new Failure("whyEmpty");
  return layer;
}

/** Asks the mirror itself, whose answer a browser may not read, for the time that it takes. */
async function reach(row, stop) {
  const address = row.host.includes("://") ? row.host : `https://${row.host === "docker.io" ? "registry-1.docker.io" : row.host}`;
  await within(REACH, stop, async signal => {
    const begun = performance.now();
    try {
      await fetch(`${address}/v2/`, { mode: "no-cors", cache: "no-store", credentials: "omit", signal });
      row.reach = performance.now() - begun;
    } catch {
      row.reach = signal.aborted && stop.aborted ? null : false;
    }
  });
}

async function download(row, image, layer, signal, changed) {
  const url = apiUrl(row.host, `${image.name}/blobs/${layer.digest}`);
  const begun = performance.now();
  let response;
  try {
    response = await fetch(url, { cache: "no-store", signal });
  } catch {
    if (signal.aborted) throw broken(signal);
    return downloadUnread(row, url, layer, signal);
  }
  if (!response.ok) throw ofStatus(response.status);
  row.through = new URL(response.url).origin === location.origin;
  const reader = response.body.getReader();
  const chunks = [];
  let received = 0, first = 0, firstAt = 0, last = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      last = performance.now();
      if (!chunks.length) {
        row.first = last - begun;
        [first, firstAt] = [value.length, last];
      }
      chunks.push(value);
      received += value.length;
      if (received > layer.size) break;
      row.share = received / layer.size;
      // The first piece came in the time before.
      if (received > first && last > firstAt) row.rate = (received - first) / (last - firstAt) / 1000;
      changed();
    }
  } catch {
    if (!received) throw broken(signal);
    row.bytes = received;
    if (!signal.aborted) {
      row.rate = 0;
      throw new Failure("whyBroken");
    }
    row.digest = "cut";
    row.cutAfter = performance.now() - begun;
    return;
  } finally {
    reader.cancel().catch(() => {});
  }
  row.bytes = received;
  // All came at once.
  row.rate ||= received / Math.max(last - begun, 1) / 1000;
  const is = received === layer.size && `sha256:${await sha256(chunks, received)}` === layer.digest;
  row.digest = is ? "right" : "wrong";
}

/** A delivery network that sends no CORS headers: neither bytes nor status can be read. */
async function downloadUnread(row, url, layer, signal) {
  const hop = await fetch(url, { redirect: "manual", cache: "no-store", signal }).catch(() => null);
  if (hop?.type !== "opaqueredirect") throw broken(signal);
  const begun = performance.now();
  let response;
  try {
    response = await fetch(url, { mode: "no-cors", cache: "no-store", signal });
  } catch {
    throw new Failure(signal.aborted ? "whyTime" : "whyBlob");
  }
  const head = performance.now();
  row.first = head - begun;
  row.digest = "unchecked";
  row.unread = true;
  // A cache reads such an answer to its end. Only a page that was opened over https has one.
  if (!globalThis.caches) return;
  const name = "hammal-speed-test";
  try {
    const cache = await caches.open(name);
    await cache.put(new Request(`${location.origin}${base}/page/unread`), response);
    row.rate = layer.size / Math.max(performance.now() - head, 1) / 1000;
    row.bytes = layer.size;
  } catch {
    row.rate = 0;
  } finally {
    await caches.delete(name);
  }
}

/** The better one comes first: checked, unread, through this mirror, running, failed. */
function order(one, other) {
  const rank = row => row.failure || row.digest === "wrong" ? 4 : !row.done ? 3 : row.through ? 2 : row.unread ? 1 : 0;
  const difference = rank(one) - rank(other);
  return difference || (other.rate - one.rate) || ((one.first || 0) - (other.first || 0)) || one.index - other.index;
}

const isRanked = row => row.done && !row.failure && row.digest !== "wrong" && !row.through && row.bytes !== 0;

function makeRow(host, index) {
  const cell = (label, className = "number") => {
    const made = element("td", { className });
    if (label) made.setAttribute("data-label", byId("speed-table").tHead.rows[0].cells[label].textContent);
    return made;
  };
  const fill = element("span");
  const row = {
    host, index, reach: null, manifest: null, first: null, rate: 0, share: 0, bytes: null, digest: "",
    through: false, unread: false, done: false, failure: null, cells: [cell(1), cell(2), cell(3)], fill,
    figure: element("span"), note: element("span", { className: "why" }), verdict: element("td", { className: "digest" }),
  };
  const bar = element("div", { className: "rate" }, fill);
  bar.setAttribute("aria-hidden", "true");
  row.line = element("tr", {}, element("th", { scope: "row" }, host), ...row.cells,
    element("td", { className: "wide" }, row.figure, bar, row.note), row.verdict);
  return row;
}

function paint(rows, finished) {
  const best = Math.max(...rows.map(row => row.rate), 0.001);
  rows.sort(order);
  const body = byId("speed-table").tBodies[0];
  const lines = rows.map(row => row.line);
  // Moving only what has to move keeps the reader's place.
  lines.forEach((line, i) => { if (body.children[i] !== line) body.insertBefore(line, body.children[i] ?? null); });
  for (const row of rows) {
    const [reached, manifest, first] = row.cells;
    reached.textContent = row.reach === false ? text("unreachable") : row.reach === null ? "" : time(row.reach);
    reached.classList.toggle("bad", row.reach === false);
    manifest.textContent = row.manifest === null ? "" : time(row.manifest);
    first.textContent = row.first === null ? "" : time(row.first);
    row.figure.textContent = row.rate ? `${row.unread ? "≈ " : ""}${row.rate.toFixed(row.rate < 10 ? 2 : 1)} MB/s` : "";
    row.fill.style.width = `${100 * (row.done ? 1 : row.share) * row.rate / best}%`;
    row.line.classList.toggle("running", row.share > 0 && !row.done);
    row.line.classList.toggle("best", finished && isRanked(row) && row === rows[0]);
    row.note.textContent = row.failure ? text(row.failure.key, row.failure.values)
      : row.unread ? text("unread")
      : row.through ? text("throughWhy")
      : row.done || row.share ? "" : text("waiting");
    row.note.classList.toggle("bad", Boolean(row.failure));
    row.verdict.textContent = row.digest && text(row.digest, { time: time(row.cutAfter ?? 0) });
    row.verdict.className = `digest ${{ right: "good", wrong: "bad" }[row.digest] ?? ""}`;
  }
}

const cleanHosts = written => written.split(/[\s,]+/).map(host => host.replace(/\/+$/, "").replace(/^https:\/\//, ""))
  .filter(host => /^(http:\/\/)?[\w.:[\]-]+$/.test(host));

const hosts = () => [...new Set(cleanHosts(byId("speed-mirrors").value))].slice(0, MAX_MIRRORS);

function showBound() {
  const count = hosts().length;
  byId("speed-bound").textContent = text("bound", { each: bytes(MAX_LAYER), count, all: bytes(count * MAX_LAYER) });
}

async function run(image) {
  const stop = new AbortController();
  running = stop;
  const begun = performance.now();
  const rows = hosts().map(makeRow);
  byId("speed-table").tBodies[0].replaceChildren(...rows.map(row => row.line));
  byId("speed-result").hidden = true;
  const share = Math.min(LAYER, (WHOLE - MANIFEST) / rows.length);
  let frame = 0;
  const changed = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (running === stop) paint(rows, false);
    });
  };
  const finish = (row, failure) => {
    row.done = true;
    if (failure) {
      row.failure = failure instanceof Failure ? failure : new Failure("whyBroken");
      if (row.failure.key === "wrongManifest") row.digest = "wrong";
    }
    const done = rows.filter(row => row.done).length;
    byId("speed-message").textContent = text("progress", { done, count: rows.length });
    changed();
  };
  byId("speed-message").textContent = text("choosing");
  changed();
  let line = Promise.resolve();
  const whole = rows.map(async row => {
    reach(row, stop.signal).then(changed);
    try {
      const layer = await within(MANIFEST, stop.signal, signal => findLayer(row, image, signal));
      changed();
      const turn = line.then(() => {
        const left = Math.min(share, WHOLE - (performance.now() - begun));
        if (stop.signal.aborted || left <= 0) throw new Failure("whyTime");
        return within(left, stop.signal, signal => download(row, image, layer, signal, changed));
      });
      line = turn.catch(() => {});
      await turn;
      finish(row);
    } catch (failure) {
      finish(row, failure);
    }
  });
  await Promise.all(whole);
  byId("speed-message").textContent = text(stop.signal.aborted ? "stopped" : "done");
  running = null;
  byId("speed-start").disabled = false;
  byId("speed-stop").disabled = true;
  paint(rows, true);
  showResult(rows, image);
}

const isHub = host => /^(registry-1\.|index\.)?docker\.io$/.test(host);

function showResult(rows, image) {
  const fastest = rows.filter(row => isRanked(row) && !isHub(row.host))
    .map(({ host }) => host.includes("://") ? host : `https://${host}`);
  byId("speed-result").hidden = false;
  byId("speed-advice").textContent = text(fastest.length ? "advice" : "adviceNone");
  byId("speed-daemon").textContent = JSON.stringify({ "registry-mirrors": fastest }, null, 2);
  const round = value => typeof value === "number" ? Math.round(value * 1000) / 1000 : value;
  data.result = {
    mirror: data.mirror,
    image: `${image.name}:${image.reference}`,
    time: new Date().toISOString(),
    mirrors: rows.map(row => ({
      host: row.host, ranked: isRanked(row), reach_ms: round(row.reach), manifest_ms: round(row.manifest),
      first_byte_ms: round(row.first), megabytes_per_second: round(row.rate), bytes: row.bytes,
      digest: row.digest || null, through_this_mirror: row.through, error: row.failure && text(row.failure.key, row.failure.values),
    })),
  };
}

function link() {
  const query = new URLSearchParams({ lang: document.documentElement.lang.slice(0, 2), image: byId("speed-image").value.trim() });
  for (const host of hosts()) query.append("mirror", host);
  return `${location.origin}${base}/?${query}#speed`;
}

function start() {
  const query = new URLSearchParams(location.search);
  const asked = parseImage(query.get("image") ?? "");
  byId("speed-image").value = asked && !asked.registry ? query.get("image") : DEFAULT_IMAGE;
  const given = cleanHosts(query.getAll("mirror").join(" "));
  byId("speed-mirrors").value = (given.length ? given : data.mirrors).join("\n");
  byId("speed-mirrors").addEventListener("input", showBound);
  showBound();
  byId("speed-form").addEventListener("submit", event => {
    event.preventDefault();
    const image = parseImage(byId("speed-image").value);
    if (running) return;
    if (!image || image.registry) {
      byId("speed-message").textContent = text("badName");
      return;
    }
    byId("speed-start").disabled = true;
    byId("speed-stop").disabled = false;
    run(image);
  });
  byId("speed-stop").addEventListener("click", () => running?.abort());
  copiesOnClick(byId("speed-json"), () => JSON.stringify(data.result, null, 2));
  copiesOnClick(byId("speed-link"), link);
}

start();
