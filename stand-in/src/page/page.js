// Shows the state that the stand-in sends, and presses its buttons. The state is `page/snapshot.rs`; nothing is computed
// here that it does not say, save percentages and the time that is left.
"use strict";

const $ = (id) => document.getElementById(id);
const number = (n) => n.toLocaleString("en");
const sum = (of) => Object.values(of).reduce((a, b) => a + b, 0);
const words = (label) => label.replaceAll("_", " ");
const SOURCES = ["local", "shared", "stale", "mas", "none", "offline", "budget"];
const SOURCE_NAMES = { local: "own cache", shared: "shared cache", stale: "past its time", mas: "a fresh answer", none: "MAS gave none", offline: "without asking", budget: "over budget" };
const VERDICTS = [
  ["active", "Active"], ["inactive", "Inactive: 401"], ["no_verdict", "No verdict: 503"], ["not_asked", "No verdict needed"],
];
const AT_MAS = {
  active: "active", locked: "locked", logged_out: "logged out", expired: "expired", unknown: "unknown", not_begun: "not begun",
};
const WHO = { client: "Client", mas: "MAS", you: "You" };

/** The state that is shown; a later one has a higher serial. */
let shown = null;
/** What the server's clock is ahead of this one's. */
let ahead = 0;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function figure(name, value, text = value === null ? "–" : number(value)) {
  for (const place of document.querySelectorAll(`[data-figure="${name}"]`)) {
    place.textContent = text;
    place.dataset.value = value === null ? "" : value;
  }
}

function show(state) {
  if (shown && state.serial <= shown.serial) return;
  const before = shown;
  shown = state;
  ahead = state.now_ms - Date.now();
  document.body.classList.remove("is-old");
  $("gateway").textContent = `Gateway ${state.gateway}`;
  showFigures(state);
  showMas(state);
  showHerd(state.herd);
  showBars(state.edge);
  showMembers();
  showJournal(state.journal);
  if (before) animate(before, state);
}

function showFigures({ edge, mas }) {
  const of = (read) => (edge ? read(edge) : null);
  const requests = of((e) => Object.values(e.requests).reduce((all, by) => all + sum(by), 0));
  const decided = of((e) => verdictsGiven(e));
  figure("requests", requests);
  figure("share", decided ? edge.spared / decided : null, decided ? `${Math.floor((100 * edge.spared) / decided)} %` : "–");
  figure("reached", of((e) => e.reached_homeserver));
  figure("spared", of((e) => e.spared));
  figure("calls", of((e) => e.calls));
  figure("in-flight", of((e) => e.in_flight));
  figure("from-cache", of((e) => e.from_cache));
  figure("coalesced", of((e) => e.coalesced));
  figure("waiting", of((e) => e.waiting));
  $("waiting-too").textContent = edge?.waiting ? `, ${number(edge.waiting)} waiting` : "";
  figure("refused", of((e) => sum(e.rejections)));
  figure("invalidated", of((e) => sum(e.invalidations)));
  figure("mas-calls", mas.calls);
  figure("mas-under-way", mas.under_way);
  $("refused-by").textContent = reasons(edge?.rejections, "answered by the edge itself");
  $("invalidated-by").textContent = reasons(edge?.invalidations, "times that answers ended");
  pill($("link"), edge ? "good" : "bad", edge ? "Live" : "Envoy does not answer");
}

function verdictsGiven(edge) {
  const given = [edge.requests, edge.answers].flatMap((by) => [by.active, by.inactive]);
  return given.reduce((all, by) => all + (by ? sum(by) : 0), 0);
}

function reasons(counts, otherwise) {
  const largest = Object.entries(counts ?? {}).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
  if (largest.length === 0) return otherwise;
  const [first, second, ...rest] = largest.map(([label, n]) => `${number(n)} ${words(label)}`);
  return [first, second, rest.length > 0 ? "…" : undefined].filter(Boolean).join(", ");
}

function pill(place, state, text) {
  place.dataset.state = state;
  if (place.textContent !== text) place.textContent = text;
}

function showMas({ mas, members }) {
  const faults = mas.faults.join(", ");
  if (!mas.is_up) pill($("mas-state"), "bad", "down");
  else if (faults) pill($("mas-state"), "wait", faults.startsWith("delay") ? "slow" : "faulty");
  else pill($("mas-state"), "good", "up");
  $("mas-state").title = faults;
  $("node-mas").classList.toggle("is-down", !mas.is_up);
  $("wire-mas")?.classList.toggle("is-down", !mas.is_up);
  const at = (id) => members.find((member) => member.id === id)?.at_mas;
  toggle("toggle-mas", mas.is_up, ["kill", "Kill MAS", "it refuses connections"], ["bring-back", "Bring MAS back", "it listens again"]);
  toggle("toggle-slow", faults === "", ["make-slow", "Make MAS slow", "2 s for each answer"], ["end-faults", "Make MAS quick", `it has: ${faults}`]);
  toggle("toggle-lock", at("alice") !== "locked", ["lock", "Lock alice", "at MAS"], ["unlock", "Unlock alice", "her token is good again"]);
  toggle("toggle-log", at("bob") !== "logged_out", ["log-out", "Log bob out", "at the edge"], ["log-in", "Log bob in", "a new token"]);
}

function toggle(id, first, one, other) {
  const [name, title, hint] = first ? one : other;
  const button = $(id);
  button.dataset.button = name;
  button.querySelector("b").textContent = title;
  button.querySelector("span").textContent = hint;
}

function showHerd({ running, answered, size, last }) {
  if (running) {
    figure("herd-calls", null, "…");
    figure("herd-spared", null, "…");
    figure("herd-statuses", null, `${number(answered)} of ${number(size)}`);
    figure("herd-took", null, "…");
  } else if (last) {
    figure("herd-calls", last.calls);
    figure("herd-spared", last.spared);
    const statuses = Object.entries(last.statuses).map(([status, n]) => `${number(n)} got ${status === "0" ? "no answer" : status}`);
    figure("herd-statuses", null, statuses.join(", "));
    figure("herd-took", last.took_ms, last.took_ms < 1000 ? `${last.took_ms} ms` : `${(last.took_ms / 1000).toFixed(1)} s`);
  }
}

function showBars(edge) {
  // Of what has no verdict MAS is the source as well; it gave none.
  const named = (verdict, source) => (verdict === "no_verdict" && source === "mas" ? "none" : source);
  const bySource = (verdict, by) => Object.entries(by ?? {}).map(([source, n]) => [named(verdict, source), n]);
  const rows = VERDICTS.map(([verdict, title]) => [title, verdict, Object.fromEntries(bySource(verdict, edge?.requests[verdict]))]);
  const asked = {};
  for (const [verdict, by] of Object.entries(edge?.answers ?? {}))
    for (const [source, n] of bySource(verdict, by)) asked[source] = (asked[source] ?? 0) + n;
  rows.push(["The homeserver's own questions", "answers", asked]);
  const most = Math.max(1, ...rows.map(([, , by]) => sum(by)));
  $("bars").replaceChildren(...rows.map(([title, verdict, by]) => {
    const total = sum(by);
    const sources = SOURCES.filter((source) => by[source] > 0);
    const of = sources.map((source) => `${SOURCE_NAMES[source]} ${number(by[source])}`).join(", ");
    const track = element("div", { className: "track" }, ...sources.map((source) => {
      const part = element("i");
      part.dataset.source = source;
      part.style.width = `${(100 * by[source]) / most}%`;
      return part;
    }));
    const count = element("b", { textContent: edge ? number(total) : "–" });
    count.dataset.verdict = verdict;
    const head = element("div", { className: "head" }, element("span", {}, element("b", { textContent: title }), " ", element("span", { className: "of", textContent: of })), count);
    return element("div", { className: "bar" }, head, track);
  }));
}

function showMembers() {
  if (!shown) return;
  const now = Date.now() + ahead;
  const rows = shown.members.map((member) => {
    const whose = member.user ? `${member.user}, ${member.device}` : "nobody's";
    const atMas = element("span", { className: "state", textContent: AT_MAS[member.at_mas] ?? member.at_mas });
    atMas.dataset.state = member.at_mas;
    const row = element("tr", {},
      element("td", {}, element("b", { textContent: member.title }), element("small", { textContent: whose })),
      element("td", {}, atMas),
      element("td", {}, ...cached(member.cached, now)),
      element("td", { className: "number", textContent: number(member.calls) }));
    row.dataset.member = member.id;
    return row;
  });
  const body = $("members");
  const fresh = element("tbody", {}, ...rows);
  if (fresh.innerHTML !== body.innerHTML) body.replaceChildren(...fresh.children);
  const { ttl_ms, negative_ttl_ms, stale_ms } = shown.cache;
  const stale = stale_ms ? `, and ${duration(stale_ms)} longer while MAS cannot be asked` : "";
  $("ttl").textContent = `${duration(ttl_ms)} for active tokens, ${duration(negative_ttl_ms)} for inactive ones${stale}`;
}

function cached(answer, now) {
  const line = (state, text, detail) => {
    const said = element("span", { className: "state", textContent: text });
    said.dataset.state = state;
    return [said, ...(detail ? [element("br"), element("small", { textContent: detail })] : [])];
  };
  if (!answer) return line("none", "nothing");
  if (answer.ended) return line("none", "nothing", `ended: ${answer.ended}`);
  if (answer.until_ms <= now) return line("none", "nothing", "its time is over");
  return line(answer.said, answer.said, `until ≈ ${clock(answer.until_ms)}, ${duration(answer.until_ms - now)} left`);
}

function duration(ms) {
  const seconds = Math.ceil(ms / 1000);
  if (ms < 1000) return `${ms} ms`;
  if (seconds < 60) return `${seconds} s`;
  const rest = seconds % 60;
  return `${Math.floor(seconds / 60)} min${rest ? ` ${rest} s` : ""}`;
}

const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

function showJournal(entries) {
  const list = $("journal");
  if (entries.length === 0) {
    list.replaceChildren(element("li", { className: "empty", textContent: "Nothing yet." }));
    return;
  }
  if (list.dataset.number === String(entries[0].number)) return;
  list.dataset.number = entries[0].number;
  list.replaceChildren(...entries.map(({ at_ms, who, text, tone }) => {
    const entry = element("li", {},
      element("time", { textContent: clock(at_ms), dateTime: new Date(at_ms).toISOString() }),
      element("span", { className: "who", textContent: WHO[who] }),
      element("span", { className: "text", textContent: text }));
    entry.dataset.tone = tone;
    return entry;
  }));
}

// --- The diagram ---------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const WIRES = [["clients", "edge"], ["edge", "homeserver"], ["edge", "mas"]];

/** Draws a line between the sides of two boxes that face each other. */
function drawWires() {
  const stage = $("wires").getBoundingClientRect();
  for (const [from, to] of WIRES) {
    const [a, b] = [from, to].map((name) => $(`node-${name}`).getBoundingClientRect());
    const middle = (box) => [box.left + box.width / 2 - stage.left, box.top + box.height / 2 - stage.top];
    const isBeside = b.left > a.right;
    let [[x1, y1], [x2, y2]] = [middle(a), middle(b)];
    if (isBeside) [x1, x2] = [a.right - stage.left, b.left - stage.left];
    else [y1, y2] = [a.bottom - stage.top, b.top - stage.top];
    const bend = isBeside ? `${(x1 + x2) / 2},${y1} ${(x1 + x2) / 2},${y2}` : `${x1},${(y1 + y2) / 2} ${x2},${(y1 + y2) / 2}`;
    let wire = $(`wire-${to}`);
    if (!wire) {
      wire = document.createElementNS(SVG, "path");
      wire.id = `wire-${to}`;
      $("wires").append(wire);
    }
    wire.setAttribute("d", `M${x1},${y1} C${bend} ${x2},${y2}`);
  }
  if (shown) $("wire-mas").classList.toggle("is-down", !shown.mas.is_up);
}

const isStill = matchMedia("(prefers-reduced-motion: reduce)");
const MOST_DOTS = 60;

/** Lets dots run along a wire, a few for many. */
function run(to, count, tone, { delay = 0, back = false } = {}) {
  const wire = $(`wire-${to}`);
  const dots = Math.min(count, count > 100 ? 24 : 8);
  if (isStill.matches || document.hidden || !wire) return;
  const length = wire.getTotalLength();
  for (let i = 0; i < dots && $("wires").querySelectorAll("circle").length < MOST_DOTS; i++) {
    const dot = document.createElementNS(SVG, "circle");
    dot.setAttribute("r", 4);
    dot.dataset.tone = tone;
    $("wires").append(dot);
    const steps = Array.from({ length: 12 }, (_, step) => {
      const at = wire.getPointAtLength((length * (back ? 11 - step : step)) / 11);
      return { transform: `translate(${at.x}px, ${at.y}px)` };
    });
    steps[0].opacity = steps[11].opacity = 0;
    steps[1].opacity = steps[10].opacity = 1;
    const end = () => dot.remove();
    dot.animate(steps, { duration: 650, delay: delay + i * 45, fill: "both", easing: "ease-in-out" }).finished.then(end, end);
  }
}

function animate(before, after) {
  if (!before.edge || !after.edge) return;
  const grown = (read) => Math.max(0, read(after.edge) - read(before.edge));
  const requests = grown((e) => Object.values(e.requests).reduce((all, by) => all + sum(by), 0));
  const refused = grown((e) => sum(e.rejections));
  run("edge", requests, "plain");
  run("mas", grown((e) => e.calls), "mas", { delay: 350 });
  run("homeserver", grown((e) => e.reached_homeserver), "passed", { delay: 600 });
  run("edge", refused, grown((e) => e.requests.no_verdict ? sum(e.requests.no_verdict) : 0) ? "failed" : "refused", { delay: 600, back: true });
}

// --- Buttons and the stream ----------------------------------------------------------------------------------------

async function press(button) {
  button.setAttribute("aria-busy", "true");
  const say = (tone, text) => {
    $("told").dataset.tone = tone;
    $("told").textContent = text;
  };
  try {
    const answer = await fetch(`/page/buttons/${button.dataset.button}`, { method: "POST", headers: { "X-Page-Button": "1" } });
    const { told, error, state } = await answer.json();
    if (state) show(state);
    say(error ? "error" : "told", sentence(error ?? told));
  } catch {
    say("error", "The stack does not answer. Is make run running?");
  } finally {
    button.removeAttribute("aria-busy");
  }
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

let events = null;
let retry = 0;

/** A page that nobody looks at holds no connection. */
function watch() {
  clearTimeout(retry);
  events?.close();
  events = null;
  if (document.hidden) return;
  events = new EventSource("/page/events");
  events.onmessage = ({ data }) => show(JSON.parse(data));
  events.onerror = () => {
    pill($("link"), "bad", "Not connected. Is make run running?");
    document.body.classList.add("is-old");
    // A stack that was started anew counts from the beginning.
    shown = null;
    // The browser tries again by itself, unless it got an answer that refused.
    if (events?.readyState === EventSource.CLOSED) retry = setTimeout(watch, 5000);
  };
}

for (const button of document.querySelectorAll("[data-button]")) button.addEventListener("click", () => press(button));
document.addEventListener("visibilitychange", watch);
new ResizeObserver(drawWires).observe(document.querySelector(".stage"));
drawWires();
showBars(null);
showJournal([]);
setInterval(() => { if (!document.hidden) showMembers(); }, 1000);
watch();
