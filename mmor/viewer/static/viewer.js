// The page of `mmor view`. Whatever comes from a take is set as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const make = (tag, attributes = {}, ...content) => fill(document.createElement(tag), attributes, content);
const draw = (tag, attributes = {}, ...content) => fill(document.createElementNS(SVG, tag), attributes, content);
function fill(node, attributes, content) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...content); // strings become text
  return node;
}
const words = (name) => name.replaceAll("_", " ");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const SIGNS = { right: "✓", missed: "−", wrong: "+", unlabelled: "?" };
const WIDTHS = [320, 480, 640, 1280, 2048]; // px, as the server makes them
const LIVE_S = 60;

const state = {
  meta: null, second: null, position: 0, opened: 0, asked: 0, busy: false, playing: false, timer: 0,
  timeline: null, from: 0, to: 1, wave: null, lenses: null, large: null, live: null, split: 0.5,
};

async function ask(url, form = "json") {
  let answer;
  try {
    answer = await fetch(url);
  } catch {
    throw new Error("the server does not answer; start `mmor view` again");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.problem || `the server answered ${answer.status} to ${url}`);
  }
  return form === "json" ? answer.json() : answer.arrayBuffer();
}
function tell(problems) {
  byId("problem").textContent = problems.join("\n");
  byId("problem").hidden = !problems.length;
}
const called = ({ kind, camera }) => (/^\d+$/.test(camera) ? `${kind} ${camera}` : words(camera));
const numbered = (name) => (state.meta.graphs.length > 1 ? `${state.meta.graphs.indexOf(name) + 1} ${name}` : name);
const base = () => `/api/takes/${encodeURIComponent(state.meta.take)}`;

// Address: #take=001_PKA_MMOR&at=123

function address() {
  const given = new URLSearchParams(location.hash.slice(1));
  const at = Number.parseInt(given.get("at") ?? "0", 10);
  return { take: given.get("take"), at: Number.isFinite(at) ? at : 0, masks: given.get("masks"), seen: given.get("cloud") };
}
function writeAddress() {
  const parts = new URLSearchParams({ take: state.meta.take, at: state.position });
  if (byId("masks").value !== "none") parts.set("masks", byId("masks").value);
  if (byId("seen").value) parts.set("cloud", byId("seen").value);
  // Browsers allow so many a minute and then throw; the next one that is allowed tells it.
  try { history.replaceState(null, "", "#" + parts); } catch (error) { if (error.name !== "SecurityError") throw error; }
}

// What was opened before, and comes late, is not wanted any more.
async function open() {
  tell([]);
  const opened = ++state.opened;
  try {
    const wanted = address();
    if (wanted.take === null) return await showList();
    sessionStorage.setItem("listed", "yes"); // "all takes" shows the list from now on
    if (state.meta?.take === wanted.take) { // another address of this take
      choose("masks", wanted.masks ?? "none");
      choose("seen", wanted.seen ?? "");
      ahead.clear();
    } else if (!(await openTake(wanted.take, wanted.masks))) return;
    await show(wanted.at);
    if (opened === state.opened) afterFirst(wanted.seen);
  } catch (error) {
    if (opened === state.opened) tell([error.message]);
  }
}

async function showList() {
  pause();
  const { opened } = state, found = await ask("/api/takes");
  if (opened !== state.opened) return;
  if (found.first !== null && !sessionStorage.getItem("listed")) {
    location.hash = new URLSearchParams({ take: found.first, at: 0 });
    return;
  }
  ahead.clear();
  Object.assign(state, { meta: null, second: null, asked: state.asked + 1 });
  if (found.live) return startLive();
  byId("viewer").hidden = true;
  byId("list").hidden = false;
  byId("title").textContent = "Takes";
  byId("subtitle").textContent = found.folder;
  const groups = Map.groupBy ? Map.groupBy(found.takes, (take) => take.dataset) : new Map([["", found.takes]]);
  byId("list").replaceChildren(...[...groups].map(([name, takes]) => make("section", {}, make("h2", {}, name),
    make("div", { class: "takes" }, ...takes.map((take) => make("a", { href: "#" + new URLSearchParams({ take: take.name, at: 0 }) },
      make("b", {}, take.title), make("span", { class: "faint" }, take.splits.join(", ") || "own take")))))));
  if (!found.takes.length) tell([`no take is in ${found.folder}`]);
}

async function openTake(name, masks = null) {
  const { opened } = state;
  if (state.meta?.take !== name) pause();
  const meta = await ask(`/api/takes/${encodeURIComponent(name)}`);
  if (opened !== state.opened) return false;
  const again = state.meta?.take === meta.take; // a live one, which has grown: what is seen of it stays
  state.meta = meta;
  document.title = `${meta.title} - mmor view`;
  byId("title").textContent = meta.title;
  byId("subtitle").textContent = `${meta.dataset}, ${meta.times.length} timepoints, ${clock(meta.times.at(-1))}`;
  byId("list").hidden = true;
  byId("viewer").hidden = false;
  byId("slider").max = meta.times.length - 1;
  if (meta.live) startLive();
  if (again) return true;
  Object.assign(state, { second: null, timeline: null, wave: null, lenses: null, from: 0, to: meta.times.length, large: null });
  document.body.classList.toggle("graphs", meta.graphs.length > 0);
  document.body.classList.toggle("two", meta.graphs.length === 2);
  document.body.classList.toggle("live", meta.live);
  document.body.classList.remove("lenses");
  options("seen", []);
  const choices = [["none", "none"], ...meta.masks.map((of) => [of, of])];
  for (let i = 1; i < meta.masks.length; i++) choices.push([`${meta.masks[i - 1]}|${meta.masks[i]}`, `${meta.masks[i - 1]} | ${meta.masks[i]}`]);
  if (!meta.categories.length) choices.length = 1;
  options("masks", choices, masks ?? byId("masks").value);
  options("predicate", meta.predicates.filter((name) => !meta.forgotten.includes(name)).concat(meta.forgotten).map((name) => [name, name]));
  byId("predicate").prepend(make("option", { value: "" }, meta.forgotten.length ? `any but ${meta.forgotten.join(", ")}` : "any predicate"));
  byId("predicate").value = "";
  options("shown-graph", meta.graphs.map((name) => [name, numbered(name)]));
  byId("views").replaceChildren();
  for (const id of ["hold-before", "hold-after"]) byId(id).disabled = true;
  const sound = byId("sound");
  if (meta.sound) sound.src = `${base()}/sound`;
  else sound.removeAttribute("src");
  drawTimeline();
  return true;
}
function options(id, choices, chosen) {
  byId(id).replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
  choose(id, chosen);
}
function choose(id, value) {
  if ([...byId(id).options].some((one) => one.value === value)) byId(id).value = value;
}

// What is slow comes after the first second is seen.
async function afterFirst(seen) {
  openLenses(seen);
  if (state.timeline !== null || state.meta === null) return;
  const meta = state.meta;
  const tried = async (get, use) => {
    try {
      const found = await get();
      if (state.meta === meta) use(found);
    } catch (error) {
      byId("timeline-note").textContent = error.message;
    }
  };
  await tried(() => ask(`${base()}/timeline`), (found) => { state.timeline = found; drawTimeline(); });
  if (meta.sound) await tried(() => ask(`${base()}/waveform`, "bytes"), (found) => { state.wave = new Uint8Array(found); drawTimeline(); });
}

// Where cameras stand, and which of them shows the point cloud.
async function openLenses(seen) {
  const { meta } = state;
  if (state.lenses !== null || meta === null) return;
  try {
    const found = await ask(`${base()}/lenses`);
    if (state.meta !== meta) return;
    state.lenses = found;
  } catch (error) {
    if (state.meta !== meta) return;
    state.lenses = { frustums: {}, problems: [error.message] };
  }
  const known = meta.cameras.filter(({ name }) => name in state.lenses.frustums);
  document.body.classList.toggle("lenses", known.length > 0);
  options("seen", [["", "no picture"], ...known.map(({ kind, name }) => [name, called({ kind, camera: name })])], seen);
  if (state.second === null) return;
  drawCloud();
  if (byId("seen").value) drawViews();
}

// One second

async function show(position) {
  if (state.meta === null) return;
  const meta = state.meta, last = meta.times.length - 1;
  state.position = Math.min(last, Math.max(0, position));
  byId("slider").value = state.position;
  byId("clock").textContent = `${clock(meta.times[state.position])} · ${state.position} of ${last}`;
  writeAddress();
  if (state.position >= state.from && state.position < state.to) drawCursor(null);
  else { // the part of the time line that is seen goes along
    const span = state.to - state.from;
    state.from = Math.max(0, Math.min(meta.times.length - span, state.position - span / 10));
    state.to = state.from + span;
    drawTimeline();
  }
  const sound = byId("sound");
  if (!state.playing && sound.hasAttribute("src") && sound.readyState > 0) sound.currentTime = meta.times[state.position];
  const asked = ++state.asked, at = state.position;
  state.busy = true;
  try {
    const second = await (ahead.get(secondUrl(at)) ?? ask(secondUrl(at)));
    if (asked !== state.asked) return;
    state.second = second;
    tell(second.problems);
    drawGraph();
    drawSignals();
    await drawViews();
    if (asked !== state.asked) return;
    document.body.dataset.shown = at;
    askAhead(at + 1);
    drawCloud();
    if (byId("texts").open) drawTexts();
  } catch (error) {
    if (asked === state.asked) { pause(); tell([error.message]); }
  } finally {
    if (asked === state.asked) state.busy = false;
  }
}
function clock(seconds) {
  const hundredths = Math.round(seconds * 100), whole = Math.floor(hundredths / 100), part = hundredths % 100;
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}${part ? "." + String(part).padStart(2, "0") : ""}`;
}
const width = () => WIDTHS.find((one) => one >= Number(byId("size").value) * 1.25 * Math.min(2, devicePixelRatio)) ?? 640;
const maskSources = () => (byId("masks").value === "none" || !byId("masks").value ? [] : byId("masks").value.split("|"));

// What the second after the shown one needs is asked for before anybody goes there.
const ahead = new Map(); // address -> promise
const secondUrl = (at) => `${base()}/${at}?${new URLSearchParams([["width", width()], ...maskSources().map((of) => ["of", of])])}`;
function urls(view, at) {
  const wide = state.large === view.camera ? 1280 : width(), camera = encodeURIComponent(view.camera);
  const masks = maskSources().filter((of) => view.masks.includes(of));
  return [`${base()}/${at}/views/${camera}?width=${wide}`, ...masks.map((of) => `${base()}/${at}/masks/${camera}?width=${wide}&of=${encodeURIComponent(of)}`)];
}
const seenUrl = (view, at) => `${base()}/${at}/seen/${encodeURIComponent(view.camera)}`;
function askAhead(at) {
  ahead.clear();
  if (at >= state.meta.times.length || state.meta.live) return;
  const keep = (url, promise) => { promise.catch(() => {}); ahead.set(url, promise); }; // it is told when it is needed
  const url = secondUrl(at), second = ask(url);
  keep(url, second);
  second.then((found) => { if (ahead.has(url)) for (const view of found.views) {
    for (const one of urls(view, at)) keep(one, picture(one));
    if (found.cloud && view.camera === byId("seen").value) keep(seenUrl(view, at), ask(seenUrl(view, at), "bytes"));
  } }, () => {});
}
async function picture(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

// A picture takes the place of the one before when it is there, so that nothing flickers.
async function load(image, url) {
  if (image.dataset.url === url) return image;
  image.dataset.url = url;
  let next = null;
  try {
    next = await (ahead.get(url) ?? picture(url));
  } catch {
    if (image.dataset.url !== url) return image;
    image.removeAttribute("src");
    delete image.dataset.url;
    return null;
  }
  if (image.dataset.url !== url || !image.isConnected) return image; // another one was wanted meanwhile
  if (next.isConnected) return next;
  Object.assign(next, { className: image.className, alt: image.alt });
  next.dataset.url = url;
  image.replaceWith(next);
  return next;
}

async function drawViews() {
  const { second } = state, sources = maskSources(), views = byId("views");
  const known = new Map([...views.children].map((figure) => [figure.dataset.camera, figure]));
  const figures = second.views.map((view) => known.get(view.camera) ?? newFigure(view));
  if (figures.length !== views.children.length || figures.some((figure, i) => views.children[i] !== figure)) views.replaceChildren(...figures);
  if (!figures.length) views.replaceChildren(make("p", { class: "faint" }, "no camera recorded this second"));
  await Promise.all(second.views.map((view, i) => drawView(view, figures[i], sources)));
  if (second === state.second) drawLegend();
}
function newFigure(view) {
  const figure = make("figure", { "data-camera": view.camera }, make("img", { class: "picture", alt: `${view.kind} camera ${view.camera}` }),
    draw("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none" }), make("figcaption"));
  figure.addEventListener("click", () => {
    state.large = state.large === view.camera ? null : view.camera;
    byId("tip").hidden = true;
    for (const one of byId("views").children) one.classList.toggle("large", one.dataset.camera === state.large);
    if (state.second) drawViews();
  });
  figure.addEventListener("mousemove", (event) => hover(event, figure));
  figure.addEventListener("mouseleave", () => { byId("tip").hidden = true; });
  return figure;
}
// Of two masks that are to be compared the one that is there is seen in all of the picture.
function lacking(view, sources) {
  const [one, ...more] = sources.filter((of) => view.masks.includes(of));
  if (one === undefined) return sources.length ? " · no mask" : "";
  return sources.length > 1 && !more.length ? ` · ${one} alone` : "";
}
async function drawView(view, figure, sources) {
  const wanted = urls(view, state.position), caption = figure.querySelector("figcaption");
  const masks = [...figure.querySelectorAll("img.mask")];
  while (masks.length > wanted.length - 1) masks.pop().remove();
  while (masks.length < wanted.length - 1) {
    masks.push(make("img", { class: "mask", alt: "" }));
    figure.insertBefore(masks.at(-1), figure.querySelector("svg"));
  }
  const loaded = await Promise.all([figure.querySelector("img.picture"), ...masks].map((image, i) => load(image, wanted[i])));
  const broken = loaded.indexOf(null);
  const told = broken >= 0 ? await ask(wanted[broken], "bytes").then(() => "cannot be shown", (error) => error.message) : null;
  if (!state.second?.views.includes(view)) return; // it came late, and another second is seen
  caption.classList.toggle("bad", broken >= 0);
  caption.textContent = told ?? called(view) + lacking(view, sources);
  const { naturalWidth, naturalHeight } = figure.querySelector("img.picture");
  if (naturalWidth) figure.style.aspectRatio = `${naturalWidth} / ${naturalHeight}`;
  drawSplit(figure, [...figure.querySelectorAll("img.mask")]);
  drawMarks(view, figure);
  await drawSeen(view, figure);
}
const DEPTHS = ["#fde725", "#a0da39", "#4ac16d", "#1fa187", "#277f8e", "#365c8d", "#46327e", "#440154"]; // viridis, near to far
async function drawSeen(view, figure) {
  const { second } = state, before = figure.querySelector("canvas");
  if (!second.cloud || byId("seen").value !== view.camera) { before?.remove(); return; }
  const url = seenUrl(view, second.position);
  let seen;
  try {
    seen = new Uint16Array(await (ahead.get(url) ?? ask(url, "bytes")));
  } catch (error) {
    if (second !== state.second) return;
    before?.remove();
    tell([...second.problems, error.message]);
    return;
  }
  if (second !== state.second || byId("seen").value !== view.camera) return;
  const count = seen.length / 3, depth = (share) => (count ? seen[3 * Math.floor(share * (count - 1)) + 2] / 1000 : 0);
  const canvas = before ?? make("canvas"), { naturalWidth, naturalHeight } = figure.querySelector("img.picture");
  canvas.dataset.points = count;
  canvas.width = Math.max(640, figure.clientWidth * devicePixelRatio);
  canvas.height = canvas.width * (naturalHeight / naturalWidth || 0.75);
  Object.assign(figure, { near: depth(0.98), far: depth(0.02) }); // a point astray does not take all the colours
  const context = canvas.getContext("2d"), dot = Math.max(2, canvas.width / 240);
  for (let i = 0; i < seen.length; i += 3) { // far ones first
    const share = (seen[i + 2] / 1000 - figure.near) / Math.max(0.01, figure.far - figure.near);
    context.fillStyle = DEPTHS[Math.min(DEPTHS.length - 1, Math.max(0, Math.floor(share * DEPTHS.length)))];
    context.fillRect((seen[i] / 65536) * canvas.width - dot / 2, (seen[i + 1] / 65536) * canvas.height - dot / 2, dot, dot);
  }
  if (!before) figure.insertBefore(canvas, figure.querySelector("svg"));
}
function depthKey() {
  const figure = [...byId("views").children].find((one) => one.querySelector("canvas"));
  if (!figure) return [];
  const key = make("i", { class: "depths" });
  key.style.background = `linear-gradient(to right, ${DEPTHS.join(", ")})`;
  return [make("span", {}, `cloud, from the camera: ${figure.near.toFixed(1)} m`, key, `${figure.far.toFixed(1)} m`)];
}
function drawSplit(figure, masks) {
  figure.querySelector(".edge")?.remove();
  masks.forEach((mask) => { mask.style.clipPath = ""; });
  if (masks.length !== 2) return;
  masks[0].style.clipPath = `inset(0 ${100 - 100 * state.split}% 0 0)`;
  masks[1].style.clipPath = `inset(0 0 0 ${100 * state.split}%)`;
  const edge = make("div", { class: "edge" });
  edge.style.left = `${100 * state.split}%`;
  figure.append(edge);
}
function drawMarks(view, figure) {
  const svg = figure.querySelector("svg"), dots = [];
  for (const [x, y] of view.gaze ?? []) { // light within dark, seen on everything
    for (const [stroke, wide] of [["#000", 0.02], ["#f0e442", 0.01]]) dots.push(draw("ellipse", { cx: x, cy: y, rx: 0.04, ry: 0.053, fill: "none", stroke, "stroke-width": wide }));
  }
  for (const [x, y] of view.hands ?? []) dots.push(draw("ellipse", { cx: x, cy: y, rx: 0.012, ry: 0.016, fill: "#cc79a7", stroke: "#fff", "stroke-width": 0.004 }));
  svg.replaceChildren(...dots);
}
function drawLegend() {
  const show = maskSources().length > 0;
  const marks = state.second.views.some((view) => view.gaze || view.hands);
  byId("legend").replaceChildren(
    ...(show ? state.meta.categories.slice(1).map(({ name, color }) => { const key = make("i"); key.style.background = color; return make("span", {}, key, words(name)); }) : []),
    ...(marks ? [["#f0e442", "gaze (ring)"], ["#cc79a7", "hands (dots)"]].map(([color, text]) => { const key = make("i"); key.style.background = color; return make("span", {}, key, text); }) : []),
    ...depthKey());
}
function hover(event, figure) {
  const tip = byId("tip"), box = figure.getBoundingClientRect(), masks = [...figure.querySelectorAll("img.mask")];
  const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
  if (masks.length === 2) { state.split = Math.min(1, Math.max(0, x)); drawSplit(figure, masks); }
  const names = masks.map((mask) => (mask.naturalWidth ? category(mask, x, y) : null));
  tip.hidden = !names.some(Boolean);
  if (tip.hidden) return;
  const sources = maskSources();
  tip.textContent = names.length === 2 ? names.map((name, i) => `${sources[i]}: ${name ?? "-"}`).join("  |  ") : names.find(Boolean);
  tip.style.left = `${event.clientX + 12}px`;
  tip.style.top = `${event.clientY + 12}px`;
}
const drawn = new WeakMap(); // mask -> its pixels
function category(mask, x, y) {
  if (drawn.get(mask)?.src !== mask.src) {
    const canvas = new OffscreenCanvas(mask.naturalWidth, mask.naturalHeight), context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(mask, 0, 0);
    drawn.set(mask, { src: mask.src, pixels: context.getImageData(0, 0, canvas.width, canvas.height) });
  }
  const { pixels } = drawn.get(mask), clamp = (value, size) => Math.min(size - 1, Math.max(0, Math.floor(value * size)));
  const at = 4 * (clamp(y, pixels.height) * pixels.width + clamp(x, pixels.width));
  const [r, g, b, alpha] = pixels.data.slice(at, at + 4);
  if (!alpha) return null;
  const hex = "#" + [r, g, b].map((value) => value.toString(16).padStart(2, "0")).join("");
  const found = state.meta.categories.find((one) => one.color === hex);
  return found ? words(found.name) : null;
}

// Graph and words

function drawGraph() {
  const { second, meta } = state, chosen = byId("shown-graph").value, svg = byId("graph");
  const said = second.graphs[chosen], truth = second.truth;
  const rows = said ? said.triplets : (truth ?? []).map((triplet) => [...triplet, "right"]);
  const plain = !said, stroke = (verdict) => (plain ? color("true") : verdict === "unlabelled" ? color("faint") : color(verdict));
  const names = meta.entities.filter((name) => rows.some(([s, o]) => s === name || o === name));
  const place = Object.fromEntries(names.map((name, i) => {
    const angle = (2 * Math.PI * i) / Math.max(names.length, 1) - Math.PI / 2;
    return [name, [230 + 160 * Math.cos(angle), 190 + 145 * Math.sin(angle)]];
  }));
  const lines = [], labels = [], between = new Map(); // how many there are of a pair: one lies beside the other
  for (const [s, o, predicate, verdict] of rows) {
    if (!place[s] || !place[o]) continue;
    const [x1, y1] = place[s], [x2, y2] = place[o], faint = meta.forgotten.includes(predicate), pair = [s, o].sort().join("\u0000");
    const before = between.get(pair) ?? 0, long = Math.max(1, Math.hypot(x2 - x1, y2 - y1)), bend = 0.12 + (28 * before) / long;
    if (!faint) between.set(pair, before + 1);
    const mx = (x1 + x2) / 2 + bend * (y2 - y1), my = (y1 + y2) / 2 - bend * (x2 - x1);
    lines.push(draw("path", { d: `M${x1},${y1} Q${mx},${my} ${x2},${y2}`, fill: "none", stroke: stroke(verdict), "stroke-width": faint ? 1 : 2.4,
      "stroke-dasharray": !plain && verdict === "missed" ? "6 4" : "none", opacity: faint ? 0.45 : 1 }));
    const lower = (x2 < x1 ? 13 : -13) * before * (1 - Math.abs(x2 - x1) / long); // labels beside each other overlap
    const t = draw("text", { x: (x1 + x2) / 4 + mx / 2, y: (y1 + y2) / 4 + my / 2 + lower, "text-anchor": "middle" }, (plain ? "" : SIGNS[verdict] + " ") + predicate);
    t.style.fill = stroke(verdict);
    if (!faint) labels.push(t);
  }
  const nodes = names.flatMap((name) => {
    const [x, y] = place[name];
    return [draw("circle", { cx: x, cy: y, r: 8, fill: meta.colors[name] ?? "#9aa6b2", stroke: color("ink") }),
      draw("text", { x: Math.min(410, Math.max(50, x)), y: y + (y < 190 ? -13 : 22), "text-anchor": "middle" }, words(name))];
  });
  const nothing = truth === null && !said ? "nothing is labelled here" : "no relation";
  svg.replaceChildren(...lines, ...nodes, ...labels, ...(names.length ? [] : [draw("text", { x: 230, y: 190, "text-anchor": "middle" }, nothing)]));
  drawTriplets();
}
function drawTriplets() {
  const { second, meta } = state, rows = new Map(), key = ([s, o, p]) => [s, o, p].join("\u0000");
  for (const triplet of second.truth ?? []) rows.set(key(triplet), { triplet, truth: true, said: {} });
  for (const name of meta.graphs) {
    for (const [s, o, p, verdict] of second.graphs[name]?.triplets ?? []) {
      if (verdict === "missed") continue;
      const at = key([s, o, p]);
      if (!rows.has(at)) rows.set(at, { triplet: [s, o, p], truth: false, said: {} });
      rows.get(at).said[name] = verdict;
    }
  }
  const head = make("tr", {}, ...["subject", "predicate", "object"].map((text) => make("th", {}, text)),
    ...(meta.graphs.length ? [make("th", { class: "mark" }, "true")] : []), ...meta.graphs.map((name, i) => make("th", { class: "mark", title: name }, meta.graphs.length > 1 ? `${i + 1}` : "said")));
  const order = [...rows.values()].sort((a, b) => meta.forgotten.includes(a.triplet[2]) - meta.forgotten.includes(b.triplet[2]));
  byId("triplets").replaceChildren(head, ...order.map(({ triplet: [s, o, p], truth, said }) => make("tr", {},
    ...[words(s), p, words(o)].map((text) => make("td", {}, text)),
    ...(meta.graphs.length ? [make("td", { class: "mark true" }, truth ? "●" : "")] : []),
    ...meta.graphs.map((name) => {
      const verdict = said[name] ?? (truth && second.graphs[name] ? "missed" : null);
      return make("td", { class: `mark ${verdict ?? ""}` }, verdict ? SIGNS[verdict] : "");
    }))));
}
function drawSignals() {
  const { second, meta } = state, lines = [["heard", second.words], ["robot screen", second.screen], ["tracker", second.tracker], ["robot log", second.robot_log]];
  for (const name of meta.graphs) {
    if (second.graphs[name] === null) lines.push([name, "says nothing of this second"]);
    else if (second.graphs[name].strange.length) lines.push([`${name}, not in the vocabulary`, second.graphs[name].strange.join("; ")]);
  }
  const line = state.live?.find((one) => one.frame_id === second.frame_id);
  if (line) lines.push(["live", [line.problem, line.latency_s === null ? null : `answered in ${line.latency_s.toFixed(2)} s`, line.behind_s ? `${line.behind_s} s behind` : null,
    line.missing.length ? `without ${line.missing.join(", ")}` : null].filter(Boolean).join("; ")]);
  const told = lines.filter(([, text]) => text);
  byId("signals").replaceChildren(...told.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
  if (!told.length) byId("signals").replaceChildren(make("dd", { class: "faint" }, "nothing"));
}
async function drawTexts() {
  const { second } = state, at = second.position, body = byId("texts-body");
  try {
    const texts = await ask(`${base()}/${at}/texts`);
    if (second !== state.second) return;
    body.replaceChildren(...Object.entries(texts).map(([source, { memory, prompt, answer, problem }]) => make("div", {},
      make("h3", {}, source === "truth" ? "by the labels" : source),
      ...[["problem", problem], ["answer", answer], ["memory", memory], ["prompt", prompt]].filter(([, text]) => text !== null)
        .flatMap(([name, text]) => [make("h4", {}, name), make("pre", {}, text || "(empty)")]))));
  } catch (error) {
    if (second === state.second) body.replaceChildren(make("p", {}, error.message));
  }
}

// Point cloud, drawn by three.js

let room = null;
async function openRoom() {
  const THREE = await import("/static/three/three.module.min.js");
  const { OrbitControls } = await import("/static/three/OrbitControls.js");
  const canvas = byId("cloud"), renderer = new THREE.WebGLRenderer({ canvas, antialias: false });
  const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera(55, 4 / 3, 0.05, 200);
  camera.up.set(0, 0, 1);
  const controls = new OrbitControls(camera, canvas), geometry = new THREE.BufferGeometry();
  const points = new THREE.Points(geometry, new THREE.PointsMaterial({ size: 0.05, vertexColors: true }));
  points.frustumCulled = false;
  const cameras = new THREE.Group();
  scene.add(points, cameras);
  renderer.setClearColor(0x0b0f13);
  const render = () => {
    const { clientWidth, clientHeight } = canvas;
    if (!clientWidth) return;
    renderer.setPixelRatio(Math.min(2, devicePixelRatio));
    renderer.setSize(clientWidth, clientHeight, false);
    camera.aspect = clientWidth / clientHeight;
    camera.updateProjectionMatrix();
    renderer.render(scene, camera);
  };
  controls.addEventListener("change", render);
  new ResizeObserver(render).observe(canvas);
  return { THREE, camera, controls, geometry, points, cameras, render, take: null, lenses: null, seen: null };
}
const EDGES = [0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 2, 3, 3, 4, 4, 1];
function drawFrustums(opened) {
  const { THREE, cameras } = opened;
  if (opened.lenses === state.lenses && opened.seen === byId("seen").value) return;
  Object.assign(opened, { lenses: state.lenses, seen: byId("seen").value });
  for (const { geometry, material } of cameras.children) { geometry.dispose(); material.map?.dispose(); material.dispose(); }
  cameras.clear();
  for (const { kind, name } of state.meta.cameras) {
    const corners = state.lenses?.frustums[name];
    if (!corners) continue;
    const chosen = name === byId("seen").value, shade = chosen ? "#fde725" : "#e69f00";
    const lines = new THREE.BufferGeometry().setFromPoints(EDGES.map((corner) => new THREE.Vector3(...corners[corner])));
    const label = make("canvas", { width: 256, height: 48 }), context = label.getContext("2d");
    Object.assign(context, { font: "600 30px system-ui, sans-serif", textAlign: "center", lineWidth: 6, strokeStyle: "#0b0f13", fillStyle: shade });
    context.strokeText(called({ kind, camera: name }), 128, 34);
    context.fillText(called({ kind, camera: name }), 128, 34);
    const sign = new THREE.Sprite(new THREE.SpriteMaterial({ map: new THREE.CanvasTexture(label), sizeAttenuation: false, depthTest: false }));
    sign.position.set(...corners[0]);
    sign.center.set(0.5, -0.1);
    sign.scale.set(0.4, 0.075, 1);
    cameras.add(new THREE.LineSegments(lines, new THREE.LineBasicMaterial({ color: shade })), sign);
  }
}
async function drawCloud() {
  const { second, meta } = state, note = byId("cloud-note");
  byId("cloud").style.visibility = second.cloud ? "visible" : "hidden";
  if (!second.cloud) { note.textContent = "none in this second"; return; }
  try {
    const bytes = await ask(`${base()}/${second.position}/cloud`, "bytes");
    if (second !== state.second) return;
    room ??= openRoom().catch((error) => { room = null; throw error; });
    const opened = await room, { THREE, camera, controls, geometry, render } = opened;
    const count = bytes.byteLength / 15, places = new Float32Array(bytes, 0, 3 * count), colors = new Uint8Array(bytes, 12 * count);
    geometry.setAttribute("position", new THREE.BufferAttribute(places, 3));
    opened.points.material.size = Math.min(0.08, Math.max(0.02, 4 / Math.sqrt(count))); // m: few points are drawn larger
    geometry.setAttribute("color", new THREE.BufferAttribute(colors, 3, true));
    if (opened.take !== meta.take) { // looks at the middle of the room from above one corner
      const sorted = [0, 1, 2].map((axis) => places.filter((_, i) => i % 3 === axis).sort());
      const middle = sorted.map((values) => values[values.length >> 1]), spread = Math.max(1, ...sorted.map((values) => values[Math.floor(values.length * 0.95)] - values[Math.floor(values.length * 0.05)]));
      controls.target.set(...middle);
      camera.position.set(middle[0] - 0.75 * spread, middle[1] - 0.75 * spread, middle[2] + 0.8 * spread);
      controls.update();
      opened.take = meta.take;
    }
    drawFrustums(opened);
    const { lenses } = state, drawn = Object.keys(lenses?.frustums ?? {}).length;
    note.textContent = [`${count} points`, ...(lenses === null ? [] : [drawn || lenses.problems.length ? `${drawn} cameras` : "no camera files", ...lenses.problems])].join("; ");
    Object.assign(byId("cloud").dataset, { points: count, cameras: drawn });
    render();
  } catch (error) {
    if (second !== state.second) return;
    byId("cloud").style.visibility = "hidden"; // it is that of another second
    note.textContent = /WebGL/.test(error.message) ? "this browser has no WebGL" : error.message;
  }
}

// Playing: the sound is the clock where there is one

function play() {
  if (state.meta === null || state.playing) return;
  if (state.position >= state.meta.times.length - 1) show(0);
  state.playing = true;
  state.heardAt = null;
  byId("play").textContent = "❚❚ pause";
  const sound = byId("sound"), start = performance.now(), from = state.meta.times[state.position];
  const heard = sound.hasAttribute("src") && (!Number.isFinite(sound.duration) || from < sound.duration);
  if (heard) {
    if (sound.readyState > 0) sound.currentTime = from;
    else sound.addEventListener("loadedmetadata", () => { sound.currentTime = from; }, { once: true });
    sound.play().catch((error) => { byId("timeline-note").textContent = `no sound: ${error.message}`; });
  }
  const step = () => {
    if (!state.playing) return;
    const { times } = state.meta;
    const now = heard && !sound.paused && !sound.seeking && sound.readyState > 1 ? sound.currentTime : from + (performance.now() - start) / 1000;
    state.heardAt = now;
    const next = positionAt(now);
    if (next > state.position && !state.busy) show(next);
    if (state.position >= times.length - 1) return pause();
    drawCursor(now);
    state.timer = requestAnimationFrame(step);
  };
  state.timer = requestAnimationFrame(step);
}
function pause() {
  state.playing = false;
  cancelAnimationFrame(state.timer);
  byId("sound").pause();
  byId("play").textContent = "▶ play";
}
function toggle() {
  if (!state.playing) return play();
  pause();
  if (state.heardAt !== null) show(positionAt(state.heardAt)); // pictures may have come late
}
function positionAt(time) {
  const { times } = state.meta, behind = times.findIndex((one) => one > time);
  return behind < 0 ? times.length - 1 : Math.max(0, behind - 1);
}
function go(position) {
  const again = state.playing;
  pause();
  if (state.live) byId("follow").checked = false;
  return show(position).then(() => { if (again) play(); });
}

// Time line

const LEFT = 104, WAVE = 34, ROW = 16;
function rows() {
  const { timeline, meta } = state;
  if (timeline === null) return [];
  const names = new Set([...Object.keys(timeline.truth), ...Object.values(timeline.graphs).flatMap(({ predicates }) => Object.keys(predicates))]);
  return meta.predicates.filter((name) => names.has(name));
}
function drawTimeline() {
  const { meta, timeline, from, to, wave } = state;
  if (meta === null) return;
  const canvas = byId("timeline"), names = rows(), strips = 1 + (timeline ? Object.keys(timeline.graphs).length : 0);
  const rowHeight = Math.max(ROW, 7 * strips + 3), top = meta.sound ? WAVE : 4, high = top + names.length * rowHeight + 18, wide = canvas.clientWidth, ratio = devicePixelRatio;
  canvas.style.height = `${high}px`;
  canvas.width = wide * ratio;
  canvas.height = high * ratio;
  const context = canvas.getContext("2d", { willReadFrequently: true }), x = (position) => LEFT + ((position - from) / (to - from)) * (wide - LEFT);
  context.scale(ratio, ratio);
  context.font = "11px system-ui, sans-serif";
  const ink = color("ink"), track = color("track"), faint = color("faint");
  if (meta.sound) {
    context.fillStyle = faint;
    context.fillText(wave ? "sound" : "sound ...", 4, 20);
    for (let pixel = LEFT; wave && pixel < wide; pixel++) {
      const time = (at) => { const p = from + ((at - LEFT) / (wide - LEFT)) * (to - from), i = Math.min(Math.floor(p), meta.times.length - 1); return meta.times[i] + (p - i) * ((meta.times[i + 1] ?? meta.times[i] + 1) - meta.times[i]); };
      const loud = Math.max(0, ...wave.subarray(Math.floor(time(pixel) * 10), Math.max(Math.floor(time(pixel + 1) * 10), Math.floor(time(pixel) * 10) + 1))) / 255;
      context.fillRect(pixel, 16 - 14 * loud, 1, Math.max(1, 28 * loud));
    }
  }
  const bar = (intervals, y, height, fill) => {
    context.fillStyle = fill;
    for (const [first, end] of intervals) if (end > from && first < to) context.fillRect(Math.max(LEFT, x(first)), y, Math.max(1, Math.min(wide, x(end)) - Math.max(LEFT, x(first))), height);
  };
  names.forEach((name, row) => {
    const y = top + row * rowHeight, height = (rowHeight - 3) / strips;
    bar([[from, to]], y, rowHeight - 3, track);
    context.fillStyle = ink;
    context.textAlign = "right";
    context.fillText(name, LEFT - 6, y + rowHeight / 2 + 3);
    context.textAlign = "left";
    bar(timeline.truth[name] ?? [], y, height - 1, color("true"));
    Object.values(timeline.graphs).forEach(({ predicates, errors }, number) => {
      const at = y + (number + 1) * height;
      bar(predicates[name] ?? [], at, height - 1, color("right"));
      const wrong = (errors[name] ?? []).map((position) => [position, position + 1]);
      bar(wrong, at + height * 0.4, height * 0.6 - 1, color("wrong"));
    });
  });
  context.fillStyle = faint;
  const begin = meta.times[Math.floor(from)], end = meta.times[Math.ceil(to) - 1];
  const apart = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600].find((s) => (s / Math.max(1, end - begin)) * (wide - LEFT) > 60) ?? 1200 * Math.ceil((60 * (end - begin)) / Math.max(1, wide - LEFT) / 1200); // s
  let before = -1; // one mark for all that a clock left out which was set anew
  for (let s = Math.ceil(begin / apart) * apart; s <= end; s += apart) {
    const at = x(positionAt(s));
    if (at < LEFT || at === before) continue;
    before = at;
    context.fillRect(at, high - 16, 1, 4);
    context.fillText(clock(s), at + 2, high - 4);
  }
  const sources = timeline ? Object.keys(timeline.graphs) : [];
  byId("timeline-note").textContent = timeline ? `from top: true${sources.map((name) => `, ${numbered(name)}`).join("")}${sources.length ? "; an error in it is orange" : ""}` : "reading the whole take ...";
  state.top = { high, wide };
  state.base = context.getImageData(0, 0, Math.max(1, canvas.width), Math.max(1, canvas.height));
  for (const id of ["hold-before", "hold-after", "error-before", "error-after", "differ-before", "differ-after"]) byId(id).disabled = !timeline;
  drawCursor(null);
}
function drawCursor(now) {
  const { meta, from, to, base: drawnBefore } = state, canvas = byId("timeline"), context = canvas.getContext("2d");
  if (!drawnBefore || !state.top) return;
  context.putImageData(drawnBefore, 0, 0);
  const { times } = meta, at = state.position, step = (times[at + 1] ?? times[at] + 1) - times[at];
  const place = now === null ? at + 0.5 : at + Math.min(1, Math.max(0, (now - times[at]) / step));
  if (place < from || place > to) return;
  context.fillStyle = color("ink");
  context.fillRect(LEFT + ((place - from) / (to - from)) * (state.top.wide - LEFT) - 1, 0, 2, state.top.high - 12);
}
function zoom(factor, around = state.position + 0.5) {
  if (state.meta === null) return;
  const whole = state.meta.times.length, span = Math.min(whole, Math.max(10, (state.to - state.from) * factor));
  const share = (around - state.from) / (state.to - state.from);
  state.from = Math.min(whole - span, Math.max(0, around - Math.min(1, Math.max(0, share)) * span));
  state.to = state.from + span;
  drawTimeline();
}
const placeOf = (event) => state.from + Math.max(0, (event.offsetX - LEFT) / (byId("timeline").clientWidth - LEFT)) * (state.to - state.from);

// Jumps

function wanted(found) {
  const chosen = byId("predicate").value, { forgotten } = state.meta;
  return chosen ? found[chosen] ?? [] : Object.entries(found).filter(([name]) => !forgotten.includes(name)).flatMap(([, positions]) => positions);
}
function jump(positions, on, what) {
  const at = state.position, beyond = [...new Set(positions)].sort((a, b) => a - b).filter((one) => (on ? one > at : one < at));
  const target = on ? beyond[0] : beyond.at(-1);
  if (target === undefined) { byId("timeline-note").textContent = `no ${what} ${on ? "after" : "before"} this second`; return; }
  go(target);
}
function jumpHold(on) {
  if (!state.timeline) return;
  const all = [state.timeline.truth, ...Object.values(state.timeline.graphs).map(({ predicates }) => predicates)];
  jump(all.flatMap((found) => wanted(found).map(([first]) => first)), on, byId("predicate").value || "predicate");
}
function jumpError(on) {
  if (!state.timeline || !state.meta.graphs.length) return;
  jump(wanted(state.timeline.graphs[byId("shown-graph").value].errors), on, "error");
}
function jumpDiffer(on) {
  if (state.timeline && state.meta.graphs.length === 2) jump(wanted(state.timeline.disagreements), on, "disagreement");
}

// What `mmor live` writes

let following = false;
function startLive() {
  if (!following) { following = true; setTimeout(followLive, 0); }
}
async function followLive() {
  try {
    const { lines, damaged } = await ask("/api/live");
    state.live = lines;
    const newest = lines.at(-1);
    if (!newest) tell(["nothing has been answered yet; waiting for `mmor live`"]);
    else {
      const place = Number.parseInt(newest.frame_id, 10), other = state.meta?.take !== newest.take;
      if ((other || place >= state.meta.times.length) && !(await openTake(newest.take))) return;
      openLenses(null);
      const grew = other || document.body.dataset.newest !== newest.frame_id;
      document.body.dataset.newest = newest.frame_id;
      if (grew) {
        state.timeline = await ask(`${base()}/timeline`);
        const first = lines.length ? Number.parseInt(lines[0].frame_id, 10) : 0;
        Object.assign(state, { from: Math.max(0, Math.min(first, place - 9)), to: Math.max(place + 1, Math.min(first, place - 9) + 10) });
        drawTimeline();
        if (other || byId("follow").checked) await show(place);
        byId("subtitle").textContent = `live, the last ${LIVE_S} s${damaged ? `; ${damaged} damaged lines` : ""}`;
      }
    }
  } catch (error) {
    tell([error.message]);
  } finally {
    setTimeout(followLive, 1000);
  }
}

// What people do

byId("play").addEventListener("click", toggle);
byId("before").addEventListener("click", () => go(state.position - 1));
byId("after").addEventListener("click", () => go(state.position + 1));
byId("slider").addEventListener("input", (event) => go(Number(event.target.value)));
byId("opacity").addEventListener("input", () => document.documentElement.style.setProperty("--opacity", byId("opacity").value / 100));
byId("size").addEventListener("input", () => byId("views").style.setProperty("--view", `${byId("size").value}px`));
byId("size").addEventListener("change", () => show(state.position));
byId("mute").addEventListener("change", () => { byId("sound").muted = byId("mute").checked; });
byId("masks").addEventListener("change", () => { ahead.clear(); show(state.position); });
byId("seen").addEventListener("change", seenChanged);
byId("shown-graph").addEventListener("change", drawGraph);
byId("texts").addEventListener("toggle", () => { if (byId("texts").open && state.second) drawTexts(); });
byId("zoom-in").addEventListener("click", () => zoom(0.5));
byId("zoom-out").addEventListener("click", () => zoom(2));
byId("help-open").addEventListener("click", () => byId("help").showModal());
const JUMPS = { hold: jumpHold, error: jumpError, differ: jumpDiffer };
for (const [name, jumpTo] of Object.entries(JUMPS)) for (const [side, on] of [["before", false], ["after", true]]) byId(`${name}-${side}`).addEventListener("click", () => jumpTo(on));
byId("timeline").addEventListener("click", (event) => { if (state.meta && event.offsetX >= LEFT) go(Math.floor(placeOf(event))); });
byId("timeline").addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 0.8 : 1.25, placeOf(event)); }, { passive: false });
function otherMasks() {
  const choices = byId("masks").options;
  byId("masks").selectedIndex = (byId("masks").selectedIndex + 1) % choices.length;
  show(state.position);
}
function seenChanged() {
  ahead.clear();
  show(state.position);
}
function otherSeen() {
  const { options: choices, selectedIndex } = byId("seen");
  if (!choices.length) return;
  byId("seen").selectedIndex = (selectedIndex + 1) % choices.length;
  seenChanged();
}
const KEYS = {
  " ": toggle, "[": () => jumpError(false), "]": () => jumpError(true), ",": () => jumpDiffer(false), ".": () => jumpDiffer(true),
  p: () => jumpHold(true), P: () => jumpHold(false), m: otherMasks, c: otherSeen, "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2),
  "?": () => byId("help").showModal(), Home: () => go(0), End: () => go(state.meta.times.length - 1),
};
// Keys are those of the page, but for who has walked to a control by keyboard; whoever clicked it has done with it.
let pointed = false;
addEventListener("pointerdown", () => { pointed = true; }, true);
addEventListener("click", (event) => { if (event.detail) event.target.closest("button, input")?.blur(); });
addEventListener("change", (event) => { if (pointed) event.target.blur(); });
const hasOwnKeys = (target, key) => target.tagName === "SELECT" || (target.type === "range" && target.id !== "slider") || (key === " " && target.matches("button, input, summary, a"));
document.addEventListener("keydown", (event) => {
  pointed = false;
  if (state.meta === null || byId("help").open || event.ctrlKey || event.metaKey || event.altKey || hasOwnKeys(event.target, event.key)) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const act = steps ? () => go(state.position + steps * (event.shiftKey ? 10 : 1)) : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
addEventListener("hashchange", open);
addEventListener("resize", drawTimeline);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawTimeline(); if (state.second) drawGraph(); });
open();
