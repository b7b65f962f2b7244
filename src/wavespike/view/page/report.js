"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// element with attributes and children; text is always text, never markup
function el(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) node.append(child);
  return node;
}
const colour = i => `--c: var(--c${i % 10})`;
const METRIC = Object.fromEntries(D.metrics.map(m => [m.key, m]));
const SYSTEM = Object.fromEntries(D.systems.map((s, i) => [s.name, { ...s, index: i }]));
const number = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const three = value => value === 0 ? "0" : Math.abs(value) >= 1000 ? number(value, 0) : String(Number(value.toPrecision(3)));
const shortened = (text, most) => text.length > most ? text.slice(0, most - 1) + "…" : text;
const arrow = better => better === "higher" ? "\u00a0↑" : better === "lower" ? "\u00a0↓" : "";
const worseFirst = (metric, a, b) => metric.better === "higher" ? a - b : b - a;

// ---- summary ---------------------------------------------------------------------------------------------------------
const COLUMNS = [
  ...D.metrics.filter(m => D.systems.some(s => m.key in s.means)).map(m => ({
    key: m.key, label: m.label, unit: m.unit, better: m.better, title: `${m.label}${m.unit ? " in " + m.unit : ""}. ${m.source}`,
    value: s => s.means[m.key], interval: s => s.intervals[m.key], text: v => number(v, m.digits),
    failed: s => s.failures[m.key], original: D.original.means[m.key] })),
  ...D.costs.filter(c => D.systems.some(s => s[c.key] !== null && s[c.key] !== undefined)).map(c => ({
    key: c.key, label: c.label, unit: c.unit, better: c.better, title: c.title, value: s => s[c.key] ?? undefined, interval: () => undefined,
    text: three, failed: () => undefined, original: undefined })),
];
const COST_KEYS = new Set(D.costs.map(c => c.key));
const sorted = { key: null, up: true };

function header(table, columns, first, state, redraw) {
  const row = el("tr", {}, [{ key: "", label: first, better: "", unit: "" }, ...columns].map(c => {
    const direction = state.key === c.key ? (state.up ? "ascending" : "descending") : "none";
    return el("th", { scope: "col", "aria-sort": direction, title: c.title }, el("button", { type: "button", onclick: () => {
      // the first click puts the best on top
      state.up = state.key === c.key ? !state.up : c.better !== "higher";
      state.key = c.key;
      redraw();
      $("live").textContent = `sorted by ${c.label}, ${state.up ? "ascending" : "descending"}`;
      [...table.querySelectorAll("thead button")].find(b => b.dataset.key === c.key)?.focus();
    }, "data-key": c.key }, c.label + arrow(c.better), c.unit ? el("small", {}, c.unit) : null));
  }));
  return el("thead", {}, row);
}

function ordered(rows, state, valueOf, nameOf) {
  if (state.key === null) return rows;
  return [...rows].sort((a, b) => {
    const x = state.key === "" ? nameOf(a) : valueOf(a), y = state.key === "" ? nameOf(b) : valueOf(b);
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);  // what has no value stays below
    const order = typeof x === "string" ? x.localeCompare(y) : x - y;
    return state.up ? order : -order;
  });
}

function summary() {
  const table = $("summary"), which = $("columns").value;
  const columns = COLUMNS.filter(c => which === "all" || COST_KEYS.has(c.key) === (which === "costs"));
  const column = COLUMNS.find(c => c.key === sorted.key);
  const rows = ordered(D.systems, sorted, s => column.value(s), s => s.label);
  const body = el("tbody");
  for (const s of rows) body.append(el("tr", {}, el("th", { scope: "row", style: colour(SYSTEM[s.name].index), title: s.name },
    el("span", { class: "swatch" }), s.label, el("small", {}, s.about)), columns.map(c => cell(c, s))));
  if (columns.some(c => c.original !== undefined)) body.append(el("tr", { class: "original" }, el("th", { scope: "row" }, "original"),
    columns.map(c => el("td", {}, c.original === undefined ? "" : c.text(c.original)))));
  table.replaceChildren(header(table, columns, "system", sorted, summary), body);
}

function cell(c, s) {
  const value = c.value(s), failed = c.failed(s);
  const flag = failed ? el("span", { class: "flag", title: failed.first, role: "img", "aria-label": `${failed.count} left out: ${failed.first}` }, ` −${failed.count}`) : null;
  if (value === undefined) return el("td", { class: "none" }, failed ? flag : "–");
  const values = D.systems.map(c.value).filter(v => v !== undefined);
  const best = c.better === "higher" ? Math.max(...values) : Math.min(...values), worst = c.better === "higher" ? Math.min(...values) : Math.max(...values);
  const log = best > 0 && worst > 0 && Math.max(best, worst) / Math.min(best, worst) > 20;
  const f = log ? Math.log : x => x;
  const goodness = !c.better || best === worst ? 0 : (f(value) - f(worst)) / (f(best) - f(worst));
  const leader = D.systems.find(t => c.value(t) === best), apart = METRIC[c.key] && value !== best ? difference(s.name, METRIC[c.key], leader.name) : undefined;
  const near = apart && apart.items >= D.fewest && !apart.verdict;
  const interval = c.interval(s);
  return el("td", { class: c.better && value === best && values.length > 1 ? "best" : near ? "near" : null,
    style: goodness > 0 ? `background-color: rgba(var(--good), ${(0.13 * goodness).toFixed(3)})` : null },
    el("b", {}, c.text(value)), flag, interval ? el("small", {}, `${c.text(interval[0])} – ${c.text(interval[1])}`) : null);
}

for (const text of D.alerts) $("alerts").append(el("p", { class: "warning" }, text));

// ---- what differs ----------------------------------------------------------------------------------------------------
// mean and bounds of a system's scores less those of another, over the files that both have; each pair is stored once
function difference(system, metric, against = $("against").value) {
  const ahead = D.differences[against]?.[system]?.[metric.key], behind = D.differences[system]?.[against]?.[metric.key];
  const [mean, low, high, items] = ahead ?? (behind ? [-behind[0], -behind[2], -behind[1], behind[3]] : []);
  if (mean === undefined) return undefined;
  const told = items >= D.fewest && (low > 0 || high < 0);
  return { mean, low, high, items, verdict: !told ? "" : low > 0 === (metric.better === "higher") ? "better" : "worse" };
}
// as many digits as the column has, and more where a difference would be drowned by them
const enough = (d, metric) => Math.min(6, Math.max(metric.digits, ...[d.mean, d.low, d.high].filter(v => v !== 0).map(v => -Math.floor(Math.log10(Math.abs(v))))));
const signed = (value, digits) => (value > 0 ? "+" : value < 0 ? "−" : "±") + number(Math.abs(value), digits);
const MARK = { better: "▲ better", worse: "▼ worse", "": "" };
const byDifference = { key: null, up: true };

function differences() {
  const against = $("against").value, others = D.systems.filter(s => s.name !== against), table = $("difference");
  const metrics = D.metrics.filter(m => others.some(s => difference(s.name, m)));
  $("differences").hidden = !metrics.length;
  if (!metrics.length) return;
  const columns = metrics.map(m => ({ key: m.key, label: m.label, unit: m.unit, better: m.better, title: `${m.label}, less that of ${SYSTEM[against].label}` }));
  const rows = ordered(others, byDifference, s => difference(s.name, METRIC[byDifference.key])?.mean, s => s.label);
  table.replaceChildren(header(table, columns, "system", byDifference, differences), el("tbody", {}, rows.map(s => el("tr", {},
    el("th", { scope: "row", style: colour(SYSTEM[s.name].index), title: s.name }, el("span", { class: "swatch" }), s.label),
    metrics.map(m => {
      const d = difference(s.name, m);
      return d === undefined ? el("td", { class: "none" }, "–") : el("td", { class: d.verdict || "same", title: `${d.items} files` },
        el("b", {}, signed(d.mean, enough(d, m))), d.verdict ? el("span", { class: "mark" }, MARK[d.verdict]) : null,
        el("small", {}, `${signed(d.low, enough(d, m))} to ${signed(d.high, enough(d, m))}`));
    })))));
  const files = D.files.length, most = Math.max(...metrics.flatMap(m => others.map(s => difference(s.name, m)?.items ?? 0)));
  $("differences-hint").textContent = `Each system's score less that of ${SYSTEM[against].label} on the same files: mean and bootstrap 95 % interval of the mean difference. ` + (most < D.fewest
    ? `With ${files} files nothing can be told from chance; it takes ${D.fewest}.` : "▲ better and ▼ worse stand where the interval leaves out zero; of twenty such cells one would by chance alone.");
  forest(others, METRIC[$("forest-metric").value], against);
}

function forest(others, metric, against) {
  const rows = others.map(s => ({ s, d: metric && difference(s.name, metric) })).filter(r => r.d);
  if (!rows.length) { $("forest").replaceChildren(); return; }
  rows.sort((a, b) => worseFirst(metric, b.d.mean, a.d.mean));
  const W = Math.max(320, Math.min(1180, $("forest").clientWidth || 720)), narrow = W < 560, left = narrow ? 14 : 170, right = narrow ? 14 : 150, step = narrow ? 46 : 32, top = 8;
  const H = top + step * rows.length + 44, low = Math.min(0, ...rows.map(r => r.d.low)), high = Math.max(0, ...rows.map(r => r.d.high)), pad = (high - low) * 0.05 || 1;
  const X = v => left + (v - low + pad) / (high - low + 2 * pad) * (W - left - right);
  const svg = el("svg:svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": `${metric.label}: differences from ${SYSTEM[against].label}` });
  for (const v of ticks(low - pad, high + pad, false)) svg.append(el("svg:line", { class: v === 0 ? "zero" : "grid", x1: X(v), x2: X(v), y1: top, y2: H - 36 }),
    el("svg:text", { x: X(v), y: H - 20, "text-anchor": "middle" }, v === 0 ? "0" : signed(v, Math.max(0, Math.min(3, 1 - Math.floor(Math.log10(high - low)))))));
  svg.append(el("svg:text", { x: (left + W - right) / 2, y: H - 3, "text-anchor": "middle" }, `${metric.label}${metric.unit ? ` (${metric.unit})` : ""}, less ${SYSTEM[against].label}; ${metric.better === "higher" ? "right" : "left"} is better`));
  rows.forEach(({ s, d }, i) => {
    const y = top + step * (i + 0.5) + (narrow ? 8 : 0), style = colour(SYSTEM[s.name].index);
    const says = `${s.label}: ${signed(d.mean, enough(d, metric))}, ${signed(d.low, enough(d, metric))} to ${signed(d.high, enough(d, metric))}${d.verdict ? ", " + d.verdict : ""}`;
    svg.append(el("svg:line", { class: "whisker" + (d.verdict ? "" : " same"), style, x1: X(d.low), x2: X(d.high), y1: y, y2: y }),
      el("svg:circle", { class: "dot" + (d.verdict ? "" : " same"), style, cx: X(d.mean), cy: y, r: 6, tabindex: 0, role: "img", "aria-label": says }, el("svg:title", {}, says)),
      el("svg:text", narrow ? { class: "label", x: 2, y: y - 14 } : { class: "label", x: left - 12, y: y + 4, "text-anchor": "end" }, shortened(s.label, narrow ? 34 : 24)),
      el("svg:text", { class: "verdict " + d.verdict, x: W - 2, y: narrow ? y - 14 : y + 4, "text-anchor": "end" }, `${signed(d.mean, enough(d, metric))}${d.verdict ? "  " + MARK[d.verdict] : ""}`));
  });
  $("forest").replaceChildren(el("figure", {}, svg));
}

// ---- trade-offs ------------------------------------------------------------------------------------------------------
function ticks(low, high, log) {
  if (log) {
    const out = [], few = Math.log10(high / low) < 1.6;
    for (let d = Math.floor(Math.log10(low)); d <= Math.ceil(Math.log10(high)); d++)
      for (const m of few ? [1, 2, 5] : [1]) if (m * 10 ** d >= low * 0.999 && m * 10 ** d <= high * 1.001) out.push(m * 10 ** d);
    return out;
  }
  const raw = (high - low) / 5, base = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].map(m => m * base).find(v => v >= raw);
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-6 ? 0 : Number(v.toPrecision(10)));
  return out;
}

function chart(cost, metric) {
  const points = D.systems.filter(s => s[cost.key] > 0 && metric.key in s.means)
    .map(s => ({ s, x: s[cost.key], y: s.means[metric.key], low: s.intervals[metric.key]?.[0], high: s.intervals[metric.key]?.[1], i: SYSTEM[s.name].index }));
  if (!points.length) return null;
  const W = 430, H = 310, left = 54, right = 16, top = 16, bottom = 46;
  const xs = points.map(p => p.x), ys = points.flatMap(p => [p.y, p.low ?? p.y, p.high ?? p.y]);
  const ceiling = D.original.means[metric.key];
  if (ceiling !== undefined) ys.push(ceiling);
  const log = Math.max(...xs) / Math.min(...xs) > 4;
  let x0 = Math.min(...xs), x1 = Math.max(...xs), y0 = Math.min(...ys), y1 = Math.max(...ys);
  if (log) { const k = (x1 / x0) ** 0.12; x0 /= k; x1 *= k; } else { const pad = (x1 - x0) * 0.15 || x1 * 0.3; x0 = Math.max(0, x0 - pad); x1 += pad; }
  const pad = (y1 - y0) * 0.14 || Math.abs(y1) * 0.1 || 1; y0 -= pad; y1 += pad;
  const X = v => left + (log ? Math.log(v / x0) / Math.log(x1 / x0) : (v - x0) / (x1 - x0)) * (W - left - right);
  const Y = v => H - bottom - (v - y0) / (y1 - y0) * (H - top - bottom);
  const svg = el("svg:svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": `${metric.label} against ${cost.label}` });
  for (const v of ticks(x0, x1, log)) svg.append(el("svg:line", { class: "grid", x1: X(v), x2: X(v), y1: top, y2: H - bottom }),
    el("svg:text", { x: X(v), y: H - bottom + 18, "text-anchor": "middle" }, three(v)));
  for (const v of ticks(y0, y1, false)) svg.append(el("svg:line", { class: "grid", x1: left, x2: W - right, y1: Y(v), y2: Y(v) }),
    el("svg:text", { x: left - 8, y: Y(v) + 4, "text-anchor": "end" }, three(v)));
  svg.append(el("svg:text", { x: (left + W - right) / 2, y: H - 8, "text-anchor": "middle" }, `${cost.label}${cost.unit ? " (" + cost.unit + ")" : ""}${arrow(cost.better)}${log ? ", logarithmic" : ""}`));
  svg.append(el("svg:text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(14 ${(top + H - bottom) / 2}) rotate(-90)` }, metric.label + arrow(metric.better)));
  if (ceiling !== undefined) svg.append(el("svg:line", { class: "ceiling", x1: left, x2: W - right, y1: Y(ceiling), y2: Y(ceiling) }),
    el("svg:text", { x: W - right, y: Y(ceiling) - 5, "text-anchor": "end" }, "original"));
  const better = (a, b) => metric.better === "higher" ? a > b : a < b;
  const front = [];
  for (const p of [...points].sort((a, b) => a.x - b.x || worseFirst(metric, b.y, a.y))) if (!front.length || better(p.y, front.at(-1).y)) front.push(p);
  if (front.length > 1) svg.append(el("svg:polyline", { class: "front", points: front.map((p, i) => (i ? `${X(p.x)},${Y(front[i - 1].y)} ` : "") + `${X(p.x)},${Y(p.y)}`).join(" ") }));
  for (const p of points) if (p.low !== undefined) svg.append(el("svg:line", { class: "bar", style: colour(p.i), x1: X(p.x), x2: X(p.x), y1: Y(p.low), y2: Y(p.high) }));
  const taken = points.map(p => [X(p.x) - 8, Y(p.y) - 8, X(p.x) + 8, Y(p.y) + 8]);
  for (const p of points) {
    const name = shortened(p.s.label, 26), w = 6.9 * name.length, cx = X(p.x), cy = Y(p.y);
    const places = [[cx + 11, cy + 4, "start"], [cx - 11, cy + 4, "end"], [cx, cy - 13, "middle"], [cx, cy + 22, "middle"], [cx + 9, cy - 11, "start"], [cx - 9, cy - 11, "end"],
      [cx + 9, cy + 19, "start"], [cx - 9, cy + 19, "end"], [cx, cy - 28, "middle"], [cx, cy + 37, "middle"]];
    const box = ([x, y, a]) => { const l = a === "start" ? x : a === "end" ? x - w : x - w / 2; return [l, y - 11, l + w, y + 4]; };
    const cost_ = q => { const b = box(q); return taken.reduce((n, t) => n + (b[0] < t[2] && t[0] < b[2] && b[1] < t[3] && t[1] < b[3] ? 1 : 0), 0)
      + (b[0] < left || b[2] > W - 2 || b[1] < 0 || b[3] > H - bottom ? 3 : 0); };
    const place = places.reduce((a, b) => cost_(b) < cost_(a) ? b : a);
    taken.push(box(place));
    const says = `${p.s.label}: ${metric.label} ${number(p.y, metric.digits)}, ${cost.label} ${three(p.x)} ${cost.unit}`;
    svg.append(el("svg:circle", { class: "dot", style: colour(p.i), cx, cy, r: 7, tabindex: 0, role: "img", "aria-label": says }, el("svg:title", {}, says)),
      el("svg:text", { class: "label", x: place[0], y: place[1], "text-anchor": place[2] }, name));
  }
  return el("figure", {}, el("figcaption", {}, `Quality against ${cost.against}`), svg);
}

function pareto() {
  const metric = METRIC[$("pareto-metric").value];
  const charts = metric ? D.costs.filter(c => c.against).map(c => chart(c, metric)).filter(Boolean) : [];
  $("pareto").replaceChildren(...(charts.length ? charts : [el("p", { class: "hint" }, "Nothing to draw: no system has both a quality and a cost.")]));
}

// ---- players ---------------------------------------------------------------------------------------------------------
const audio = new Audio();
audio.preload = "auto";
let current = null;  // { file, system, tile }
const PLAY = "M6 3.5v17l14-8.5z", PAUSE = "M6 4h4v16H6zm8 0h4v16h-4z";

function show(tile) {
  document.querySelectorAll(".tile").forEach(t => {
    const on = t === tile, playing = on && !audio.paused;
    t.classList.toggle("on", on);
    t.querySelector("path")?.setAttribute("d", playing ? PAUSE : PLAY);
    t.querySelector("button")?.setAttribute("aria-pressed", String(playing));
  });
}

function play(tile, at = null) {
  const { file, system } = tile.dataset;
  const player = D.players[file], source = system === "" ? player.original : player.systems[system];
  if (!source.audio) return;
  if (!current || current.tile !== tile) {
    const position = at ?? (current && current.file === file && audio.currentTime < audio.duration ? audio.currentTime : 0);
    audio.src = source.audio;
    current = { file, system, tile };
    audio.addEventListener("loadedmetadata", () => { audio.currentTime = Math.min(position, audio.duration); }, { once: true });
  } else if (at !== null) audio.currentTime = at;
  audio.play().catch(error => { $("live").textContent = `cannot play: ${error.message}`; });
}

function toggle(tile) {
  if (current && current.tile === tile && !audio.paused) audio.pause(); else play(tile);
}

function move() {
  if (!current) return;
  const head = current.tile.querySelector(".head"), length = D.players[current.file].seconds;
  if (head) head.style.left = `${100 * Math.min(1, audio.currentTime / length)}%`;
  if (!audio.paused) requestAnimationFrame(move);
}
for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, () => { show(current?.tile); move(); });
audio.addEventListener("seeked", move);
$("loop").addEventListener("change", () => { audio.loop = $("loop").checked; });
$("blind").addEventListener("change", () => { players(); $("live").textContent = $("blind").checked ? "names are hidden" : "names are shown"; });
$("pitch").addEventListener("change", () => document.body.classList.toggle("nopitch", !$("pitch").checked));

// pitch has an axis of its own: 60 to 500 Hz, logarithmic, over the height of the picture
function pitchLines(player, ...tracks) {
  const lines = tracks.flatMap(([track, kind]) => {
    const runs = [[]];
    (track ?? []).forEach((f, i) => {
      if (f) runs.at(-1).push(`${(100 * i * player.hop_s / player.seconds).toFixed(2)},${(100 - 100 * Math.log(f / player.f_min_hz) / Math.log(player.f_max_hz / player.f_min_hz)).toFixed(2)}`);
      else if (runs.at(-1).length) runs.push([]);
    });
    return runs.filter(r => r.length > 1).map(r => el("svg:polyline", { class: kind, points: r.join(" ") }));
  });
  return lines.length ? el("svg:svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" }, lines) : null;
}

function tile(file, player, name, source, index, metric, alias) {
  const system = SYSTEM[name], label = alias ?? (system ? system.label : "original");
  const score = system && metric && !alias ? D.files[player.file].scores[name]?.[metric.key] : undefined;
  const box = el("div", { class: "tile", style: system && !alias ? colour(system.index) : null, "data-file": file, "data-system": name });
  if (!source.audio) { box.append(el("p", {}, alias ? `${label}: nothing to play` : `${label}: ${source.error}`)); return box; }
  const says = `${label}, file ${player.label}`;
  box.append(
    el("button", { type: "button", "aria-pressed": "false", "aria-label": `Play ${says}`, onclick: () => toggle(box) },
      el("svg:svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, el("svg:path", { d: PLAY })),
      el("span", { class: "name", title: system && !alias ? name : label }, label),
      el("span", { class: "score", title: metric?.label }, score === undefined ? "" : number(score, metric.digits)), index <= 9 ? el("kbd", { "aria-hidden": "true" }, String(index)) : null),
    el("div", { class: "picture", onclick: event => { const r = event.currentTarget.getBoundingClientRect(); play(box, player.seconds * (event.clientX - r.left) / r.width); } },
      el("img", { src: source.image, alt: `Spectrogram: ${says}`, decoding: "async" }), pitchLines(player, [system ? player.original.pitch : null, "reference"], [source.pitch, "own"]), el("div", { class: "head" })));
  return box;
}

// blind: the systems of every file in an order of its own, named by letters, until the names are asked for
function shuffled(list) {
  const out = [...list];
  for (let i = out.length - 1; i > 0; i--) { const j = Math.floor(Math.random() * (i + 1)); [out[i], out[j]] = [out[j], out[i]]; }
  return out;
}

function players() {
  const metric = METRIC[$("order-metric").value], system = $("order-system").value;
  const score = p => metric ? D.files[p.file].scores[system]?.[metric.key] : undefined;
  const blind = $("blind").checked, rows = D.players.map((p, i) => ({ p, i, v: score(p) }));
  if (metric) rows.sort((a, b) => (a.v === undefined || b.v === undefined) ? (b.v === undefined) - (a.v === undefined) : worseFirst(metric, a.v, b.v));
  audio.pause();
  current = null;
  $("players").replaceChildren(...rows.map(({ p, i }) => el("article", { class: "file", id: `file-${p.file}` },
    el("div", {}, el("h3", {}, p.label), el("span", { class: "where" }, `${number(p.seconds, 2)} s, ${number(p.rate_hz, 0)} Hz`)),
    el("div", { class: "tiles" }, tile(i, p, "", p.original, 0, metric), (blind ? shuffled(D.systems) : D.systems).map((s, n) => tile(i, p, s.name, p.systems[s.name], n + 1, metric, blind ? String.fromCharCode(65 + n % 26) : undefined))))));
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
  const here = event.target.closest?.(".tile") ?? current?.tile ?? document.querySelector(".tile[data-system]");
  if (!here) return;
  const tiles = [...here.parentElement.children].filter(t => t.querySelector("button")), articles = [...document.querySelectorAll(".file")];
  const go = t => { if (t) { t.querySelector("button")?.focus(); play(t); } };
  if (event.key === " " && !/^(BUTTON|SUMMARY|A)$/.test(event.target.tagName)) toggle(here);
  else if (/^[0-9]$/.test(event.key)) go([...here.parentElement.children][Number(event.key)]?.querySelector("button") ? here.parentElement.children[Number(event.key)] : null);
  else if ((event.key === "ArrowRight" || event.key === "ArrowLeft") && (event.target.closest?.(".tile") || (current && !audio.paused)))
    go(tiles.at((tiles.indexOf(here) + (event.key === "ArrowRight" ? 1 : -1)) % tiles.length));
  else if (event.key === "n" || event.key === "p") {
    const next = articles[articles.indexOf(here.closest(".file")) + (event.key === "n" ? 1 : -1)];
    if (next) { next.scrollIntoView({ block: "start" }); go([...next.querySelectorAll(".tile")].find(t => t.dataset.system === here.dataset.system && t.querySelector("button"))); }
  } else return;
  event.preventDefault();
});

// ---- all files -------------------------------------------------------------------------------------------------------
const everyFile = { key: null, up: true };
function all() {
  const metric = METRIC[$("all-metric").value], table = $("all");
  if (!metric) { table.replaceChildren(); return; }
  const columns = [{ key: "seconds", label: "length", unit: "s", better: "" }, ...D.systems.map(s => ({ key: s.name, label: s.label, unit: metric.unit, better: metric.better, title: s.name }))];
  const value = f => everyFile.key === "seconds" ? f.seconds : f.scores[everyFile.key]?.[metric.key];
  const withPlayer = new Set(D.players.map(p => p.file));
  const index = new Map(D.files.map((f, i) => [f, i]));
  table.replaceChildren(header(table, columns, "file", everyFile, all), el("tbody", {}, ordered(D.files, everyFile, value, f => f.label).map(f => el("tr", {},
    el("th", { scope: "row", title: f.name }, withPlayer.has(index.get(f)) ? el("a", { href: `#file-${index.get(f)}` }, f.label) : f.label), el("td", {}, number(f.seconds, 2)),
    D.systems.map(s => { const v = f.scores[s.name]?.[metric.key]; return v === undefined ? el("td", { class: "none" }, "–") : el("td", {}, number(v, metric.digits)); })))));
}

// ---- how it was measured ---------------------------------------------------------------------------------------------
function about() {
  const list = rows => el("dl", {}, rows.map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
  const table = (head, rows) => el("div", { class: "scroll", tabindex: 0 }, el("table", {}, el("thead", {}, el("tr", {}, head.map(h => el("th", { scope: "col" }, h)))),
    el("tbody", {}, rows.map(r => el("tr", {}, r.map(c => el("td", {}, c)))))));
  const parts = [list(D.about.map(([k, v]) => [k, k === "command" ? el("code", {}, v) : v])),
    el("details", { open: true }, el("summary", {}, "Metrics"), table(["metric", "better", "range", "works at", "source"],
      D.metrics.map(m => [m.label + (m.unit ? ` (${m.unit})` : ""), m.better, m.range, m.rate, m.source]))),
    el("details", {}, el("summary", {}, "Costs"), table(["cost", "what it is"], D.costs.map(c => [c.label + (c.unit ? ` (${c.unit})` : ""), c.title])))];
  if (D.notes.length) parts.push(el("details", {}, el("summary", {}, `Notes and what was left out (${D.notes.length})`), table(["system", "file or metric", "what"], D.notes)));
  $("about").replaceChildren(...parts);
}

// ---- page ------------------------------------------------------------------------------------------------------------
const THEMES = { auto: ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };
const dark = matchMedia("(prefers-color-scheme: dark)");
function theme(name) {
  document.documentElement.dataset.theme = name === "auto" ? (dark.matches ? "dark" : "light") : name;
  $("theme").textContent = THEMES[name][0];
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[name][1]}`);
  $("theme").title = `Colours: ${THEMES[name][1]}`;
  $("theme").dataset.name = name;
}
const remember = (() => { try { return window.localStorage; } catch { return null; } })();
$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES), next = names[(names.indexOf($("theme").dataset.name) + 1) % 3];
  theme(next);
  try { remember?.setItem("wavespike-theme", next); } catch { /* a page from a file may not store */ }
});
dark.addEventListener("change", () => $("theme").dataset.name === "auto" && theme("auto"));
let kept = null;
try { kept = remember?.getItem("wavespike-theme"); } catch { /* as above */ }
theme(kept in THEMES ? kept : "auto");

const measured = D.metrics.filter(m => D.systems.some(s => m.key in s.means));
const fill = (id, options, value, redraw) => {
  $(id).replaceChildren(...options.map(([v, text]) => el("option", { value: v, selected: v === value }, text)));
  $(id).addEventListener("change", redraw);
};
const choices = measured.map(m => [m.key, m.label]);
fill("columns", [["all", "all"], ["quality", "quality"], ["costs", "costs"]], "all", summary);
const compared = D.systems.filter(s => D.systems.every(t => t === s || D.differences[s.name]?.[t.name] || D.differences[t.name]?.[s.name]));
fill("against", compared.map(s => [s.name, s.label]), D.against, differences);
fill("forest-metric", choices, D.main_metric, differences);
fill("pareto-metric", choices, D.main_metric, pareto);
fill("order-metric", choices, D.main_metric, players);
fill("order-system", D.systems.map(s => [s.name, s.label]), D.systems[0]?.name, players);
fill("all-metric", choices, D.main_metric, all);
document.title = $("title").textContent = D.title;
$("subtitle").textContent = D.subtitle;
$("files-hint").textContent = D.files_hint;
summary();
differences();
let width = $("forest").clientWidth;
addEventListener("resize", () => { if ($("forest").clientWidth !== width) { width = $("forest").clientWidth; differences(); } });
pareto();
players();
all();
about();
document.body.dataset.ready = "true";
