// What every part of the page uses: its data, texts, elements, copy buttons; and the status.

export const data = JSON.parse(document.getElementById("data").textContent);
/** In front of every path of the mirror. */
export const base = data.path;
export const MANIFESTS = [
  "application/vnd.oci.image.index.v1+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json",
].join(", ");

export const byId = id => document.getElementById(id);

export const text = (key, values = {}) =>
  data.text[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** Makes an element. `properties` are those of the DOM, or attributes with a hyphen. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function bytes(count) {
  for (const unit of ["B", "kB", "MB"]) {
    if (count < 1000) return `${unit === "B" || count >= 100 ? Math.round(count) : count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} GB`;
}

export function time(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/** Reads `name`, `host/name`, with `:tag` or `@digest`; null where it is none. */
export function parseImage(written) {
  const match = /^(?:([^/]*[.:][^/]*)\/)?([a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)(?::([\w][\w.-]{0,127}))?(?:@(sha\d+:[0-9a-f]{64,128}))?$/
    .exec(written.trim().replace(/^https?:\/\//, ""));
  if (!match) return null;
  const [, registry, name, tag, digest] = match;
  return { registry: registry ?? "", name, tag: tag ?? "", reference: digest ?? tag ?? "latest" };
}

export const apiUrl = (registry, path) =>
  `${base}/v2/${path}${registry ? `${path.includes("?") ? "&" : "?"}upstream=${encodeURIComponent(registry)}` : ""}`;

/** Tells screen readers. */
export const say = what => { byId("said").textContent = what; };

export async function copy(what) {
  try {
    await navigator.clipboard.writeText(what);
  } catch {
    // A page that was opened over plain http has no clipboard interface.
    const area = element("textarea", { value: what, className: "unseen" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(text("copied"));
}

/** Copies at a click, and says so on the button. */
export function copiesOnClick(button, what) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const focused = document.activeElement;
    await copy(what());
    focused?.focus();
    button.textContent = text("copied");
    setTimeout(() => { button.textContent = label; }, 1500);
  });
}

export function addCopyButton(pre) {
  const code = pre.querySelector("code");
  code.tabIndex = 0;
  const button = element("button", { type: "button", className: "copy" }, text("copy"));
  const label = code.textContent.trim().split("\n")[0].slice(0, 60);
  button.setAttribute("aria-label", `${text("copy")}: ${label}`);
  copiesOnClick(button, () => code.textContent);
  pre.classList.add("copies");
  pre.append(button);
}

/** The mirror sees plain http where a proxy in front of it takes https and does not say so. */
function correctScheme() {
  const real = location.origin + base;
  if (real === data.mirror || location.host !== new URL(data.mirror).host) return;
  for (const part of document.querySelectorAll(".insecure")) part.remove();
  const walker = document.createTreeWalker(byId("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    node.data = node.data.replaceAll(data.mirror, real);
  }
  data.mirror = real;
}

/** The other language shows the same test. */
function keepQuery() {
  const link = document.querySelector(".language");
  const query = new URLSearchParams(location.search);
  query.set("lang", link.lang);
  link.search = query;
}

async function showStatus() {
  const list = byId("status-list");
  const add = (term, ...parts) => {
    const cells = parts.map(part => element("div", {}, part));
    list.append(element("dt", {}, term), element("dd", {}, ...cells));
  };
  try {
    const status = await (await fetch(`${base}/status.json`)).json();
    add(text("upstreams"), ...status.upstreams.map(upstream =>
      element("span", {}, `${upstream.host ?? text("internal")} · `,
        element("span", { className: upstream.state === "up" ? "good" : "bad" }, text(upstream.state)))));
    add(text("allowed"), text(`allowed.${status.named_upstreams}`));
    add(text("delivery"), text(`delivery.${status.blob_delivery}`));
    add(text("limit"), status.client_limit ? text("limitOf", { count: status.client_limit }) : text("limitNone"));
    add(text("access"), text(data.closed ? "accessClosed" : data.login ? "accessLogin" : "accessOpen"));
    add(text("version"), `hammal ${status.version}`);
  } catch {
    list.append(element("dt", {}, text("network")));
  }
}

function start() {
  document.documentElement.classList.remove("plain");
  correctScheme();
  keepQuery();
  for (const pre of document.querySelectorAll("pre")) addCopyButton(pre);
  showStatus();
}

start();
