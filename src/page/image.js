// Looking up an image: tags, platforms, sizes, commands; searching Docker Hub.
import { MANIFESTS, addCopyButton, apiUrl, base, byId, bytes, data, element, parseImage, text } from "./page.js";

const TAGS_A_PAGE = 100;
const PLATFORMS = 16;

/** Only the last lookup writes to the page. */
let current = 0;

class AnswerError extends Error {}

async function ask(url, headers = {}) {
  let response;
  try {
    response = await fetch(url, { headers });
  } catch {
    throw new AnswerError(text("network"));
  }
  if (response.ok) return response;
  const document = await response.json().catch(() => ({}));
  throw new AnswerError(text("failed", { status: response.status, message: document.errors?.[0]?.message ?? "" }));
}

async function manifest(image, reference) {
  const response = await ask(apiUrl(image.registry, `${image.name}/manifests/${reference}`), { accept: MANIFESTS });
  return { digest: response.headers.get("docker-content-digest"), document: await response.json() };
}

const size = document => (document.layers ?? []).reduce((sum, layer) => sum + layer.size, document.config?.size ?? 0);

const platformName = ({ os, architecture, variant }) => [os, architecture, variant].filter(Boolean).join("/");

async function platforms(image, top) {
  if (!top.document.manifests) {
    return [{ name: "–", layers: top.document.layers?.length ?? 0, size: size(top.document) }];
  }
  const entries = top.document.manifests
    .filter(({ platform }) => platform && platform.os !== "unknown")
    .slice(0, PLATFORMS);
  return Promise.all(entries.map(async entry => {
    const { document } = await manifest(image, entry.digest);
    return { name: platformName(entry.platform), layers: document.layers?.length ?? 0, size: size(document) };
  }));
}

function commands(image) {
  const registry = image.registry || "docker.io";
  const isHub = /^(registry-1\.|index\.)?docker\.io$/.test(registry);
  const name = isHub && !image.name.includes("/") ? `library/${image.name}` : image.name;
  const separator = image.reference.includes(":") ? "@" : ":";
  const own = `${isHub ? "" : `${registry}/`}${image.name}${separator}${image.reference}`;
  const full = `${isHub ? "docker.io" : registry}/${name}${separator}${image.reference}`;
  const configured = [
    isHub ? `docker pull ${own}` : null,
    `ctr images pull --hosts-dir /etc/containerd/certs.d ${full}`,
    data.closed ? null : `podman pull ${full}`,
  ];
  const named = `${data.host}/${isHub ? "" : `${registry}/`}${name}${separator}${image.reference}`;
  const direct = [`docker pull ${named}`, `podman pull ${named}`, `ctr images pull ${named}`,
    `skopeo inspect docker://${named}`, `crane pull ${named} image.tar`];
  const blocks = [[text("configured"), configured.filter(Boolean)]];
  if (!data.closed) blocks.push([text("named"), direct]);
  return blocks.flatMap(([title, lines]) => {
    const pre = element("pre", {}, element("code", {}, lines.join("\n")));
    addCopyButton(pre);
    return [element("p", {}, `${text("commands")}, ${title}`), pre];
  });
}

/** Where the next page of a list is, on this page's own origin. */
function nextPage(response) {
  const match = /<([^>]+)>;\s*rel="?next"?/.exec(response.headers.get("link") ?? "");
  if (!match) return null;
  const url = new URL(match[1], response.url);
  return url.pathname + url.search;
}

async function addTags(list, more, url, image) {
  const response = await ask(url);
  const { tags } = await response.json();
  for (const tag of tags ?? []) {
    const button = element("button", { type: "button", className: "quiet" }, tag);
    button.setAttribute("aria-pressed", tag === image.reference);
    button.addEventListener("click", () => show({ ...image, tag, reference: tag }));
    list.append(element("li", {}, button));
  }
  const next = nextPage(response);
  more.hidden = !next;
  more.onclick = () => addTags(list, more, next, image).catch(report);
}

const report = error => {
  byId("image-message").textContent = error instanceof AnswerError ? error.message : String(error);
};

async function show(image) {
  const turn = ++current;
  const result = byId("image-result");
  const prefix = image.registry ? `${image.registry}/` : "";
  byId("image-name").value = `${prefix}${image.name}${image.tag ? `:${image.tag}` : ""}`;
  byId("image-message").textContent = text("loading");
  try {
    const top = await manifest(image, image.reference);
    const found = await platforms(image, top);
    if (turn !== current) return;
    const rows = found.map(({ name, layers, size }) => element("tr", {},
      element("th", { scope: "row" }, name),
      element("td", { className: "number" }, String(layers)),
      element("td", { className: "number" }, bytes(size))));
    const head = element("thead", {}, element("tr", {},
      element("th", { scope: "col" }, text("platform")),
      element("th", { scope: "col", className: "number" }, text("layers")),
      element("th", { scope: "col", className: "number" }, text("size"))));
    const list = element("ul", { className: "tags" });
    const more = element("button", { type: "button", className: "quiet", hidden: true }, text("more"));
    result.replaceChildren(
      element("h3", {}, `${prefix}${image.name}:${image.reference}`),
      element("p", {}, `${text("digest")} `, element("code", {}, top.digest ?? "–")),
      element("table", {}, head, element("tbody", {}, ...rows)),
      ...commands(image),
      element("h4", {}, text("tags")), list, more);
    byId("image-message").textContent = "";
    await addTags(list, more, apiUrl(image.registry, `${image.name}/tags/list?n=${TAGS_A_PAGE}`), image);
  } catch (error) {
    if (turn === current) report(error);
  }
}

async function search(words) {
  const turn = ++current;
  byId("image-message").textContent = text("loading");
  byId("image-result").replaceChildren();
  try {
    const { results } = await (await ask(`${base}/v1/search?n=25&q=${encodeURIComponent(words)}`)).json();
    if (turn !== current) return;
    byId("image-message").textContent = results.length ? text("results", { count: results.length }) : text("noResults");
    byId("image-result").replaceChildren(element("ul", { className: "found" }, ...results.map(found => {
      const button = element("button", { type: "button", className: "quiet" }, found.name);
      button.addEventListener("click", () => show({ registry: "", name: found.name, tag: "", reference: "latest" }));
      const marks = [found.is_official ? text("official") : "", text("stars", { count: found.star_count })];
      return element("li", {}, button, element("span", { className: "hint" }, marks.filter(Boolean).join(" · ")),
        element("p", {}, found.description));
    })));
  } catch (error) {
    if (turn === current) report(error);
  }
}

function start() {
  const input = byId("image-name");
  byId("image-form").addEventListener("submit", event => {
    event.preventDefault();
    const written = input.value.trim();
    const image = parseImage(written);
    if (image) show(image);
    else if (/\s/.test(written)) search(written);
    else byId("image-message").textContent = text("badName");
  });
  byId("image-search").addEventListener("click", () => {
    if (input.value.trim()) search(input.value.trim());
    else input.focus();
  });
  const wanted = new URLSearchParams(location.search).get("show");
  const image = wanted && parseImage(wanted);
  if (image) show(image);
}

start();
