"use strict";

const MOST_CHARACTERS = 4000;
const FIRST = 10; // videos in an answer at first
const MOST = 50;

const $ = (id) => document.getElementById(id);
const box = $("paragraph");

let who = ""; // answers
let asked = null; // the search under way
let turn = 0; // of searches, by which the last is known
let shown = null; // {paragraph, top, cards}
const answers = new Map(); // by question, so that going back is immediate

/* Words and numbers */

/* 1:02.5, or 1:02:03 from an hour on; of a video of less than two minutes plain seconds. */
function clock(seconds, digits = 1) {
  const shown = Math.max(seconds, 0).toFixed(seconds < 3600 ? digits : 0);
  const minutes = Math.floor(shown / 60);
  const [whole, part] = shown.split(".");
  const rest = String(whole - 60 * minutes).padStart(2, "0") + (part ? `.${part}` : "");
  if (minutes < 60) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

function bounds(moment, duration) {
  return [moment.start, moment.end].map((time) => (duration < 120 ? time.toFixed(1) : clock(time)));
}

function when(moment, duration) {
  return bounds(moment, duration).join("–") + (duration < 120 ? " s" : "");
}

function spoken(moment, duration) {
  return bounds(moment, duration).join(" to ") + (duration < 120 ? " seconds" : "");
}

/* Three digits; of a range where one is given, so that what is next to nothing in it is 0. */
function figure(number, range = Math.abs(number)) {
  if (number === null) return "none";
  const unit = 10 ** Math.floor(Math.log10(range || 1) - 2);
  return Number((Math.round(number / unit) * unit).toPrecision(6)).toString();
}

function videos(number) {
  return `${number.toLocaleString("en")} ${number === 1 ? "video" : "videos"}`;
}

function element(name, kind = "", text = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  return made;
}

function drawn(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function copy(template) {
  return $(template).content.firstElementChild.cloneNode(true);
}

/* Asking */

class Problem extends Error {}

async function ask(address, body, signal) {
  let response;
  try {
    response = await fetch(address, {
      method: body ? "POST" : "GET",
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body && JSON.stringify(body),
      signal,
    });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Problem("the server does not answer; it may have been stopped");
  }
  const found = await response.json().catch(() => null);
  if (response.ok && found) return found;
  throw new Problem(found?.error ?? `the server answered with status ${response.status}`);
}

function sentence(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

async function search(paragraph, top) {
  const key = JSON.stringify([paragraph, top]);
  asked?.abort();
  if (!answers.has(key)) {
    asked = new AbortController();
    const found = await ask("/search", { paragraph, top }, asked.signal);
    answers.set(key, found);
    if (answers.size > 20) answers.delete(answers.keys().next().value);
  }
  return answers.get(key);
}

/* The address: everything after the # is a question, and where in its answer to go */

function address(paragraph, top, video, number) {
  const parts = new URLSearchParams({ q: paragraph });
  if (top !== FIRST) parts.set("top", top);
  if (video !== undefined) parts.set("video", video);
  if (number) parts.set("sentence", number);
  return `#${parts}`;
}

function addressed() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const top = Number(parts.get("top") ?? FIRST);
  return {
    paragraph: parts.get("q") ?? "",
    top: Number.isInteger(top) && top >= 1 && top <= MOST ? top : FIRST,
    video: parts.get("video"),
    number: Number(parts.get("sentence") ?? 1),
  };
}

async function follow() {
  const { paragraph, top, video, number } = addressed();
  box.value = paragraph;
  count();
  if (!paragraph.trim()) return clear();
  if (shown?.paragraph !== paragraph || shown.top !== top) {
    if (!(await answer(paragraph, top))) return;
  }
  if (video === null) return;
  const card = shown.cards.find((each) => each.hit.video === video);
  $("missing").hidden = Boolean(card);
  if (!card) {
    $("missing").textContent =
      `The link leads to ${video}, which is not among the first ${shown.cards.length} of this answer.`;
    return;
  }
  const index = Math.min(Math.max(number, 1), card.bars.length) - 1;
  card.item.scrollIntoView({ block: "start" });
  card.bars[index]?.focus({ preventScroll: true });
  go(card, index, false);
}

/* The answer */

async function answer(paragraph, top) {
  const mine = ++turn;
  tell(`Searching ${$("size").textContent || "the videos"}…`, true);
  $("answer").setAttribute("aria-busy", "true");
  try {
    const found = await search(paragraph, top);
    show(paragraph, top, found);
    return true;
  } catch (fault) {
    if (fault.name === "AbortError") return false; // another question came
    if (shown?.paragraph !== paragraph) drop(); // what is below would belong to another question
    complain(fault, () => answer(paragraph, top).then((done) => done && follow()));
    return false;
  } finally {
    if (mine === turn) $("answer").removeAttribute("aria-busy");
  }
}

function tell(text, busy = false) {
  $("status").textContent = text;
  $("status").classList.toggle("busy", busy);
  $("problem").replaceChildren();
}

function complain(fault, again) {
  tell("");
  const text = `No answer: ${reason(fault)}`;
  const button = element("button", "quiet", "Try again");
  button.type = "button";
  button.addEventListener("click", again);
  $("problem").replaceChildren(element("span", "", text), button);
}

function reason(fault) {
  if (fault instanceof Problem) return sentence(fault.message);
  console.error(fault);
  return "the page failed at it.";
}

function clear() {
  asked?.abort();
  drop();
  tell("");
  $("help").hidden = false;
  document.title = "Find moments in videos";
}

function drop() {
  release();
  shown = null;
  $("answer").hidden = true;
}

function release() {
  for (const { video } of shown?.cards ?? []) {
    visible.unobserve(video);
    video.removeAttribute("src"); // gives its connection back
    video.load();
  }
}

function show(paragraph, top, found) {
  release();
  shown = { paragraph, top, cards: [] };
  const spent = found.seconds < 10 ? figure(found.seconds) : Math.round(found.seconds);
  tell(
    found.hits.length
      ? `${videos(found.hits.length)}, best first, in ${spent} s${who}`
      : "The index holds no video that could be found.",
  );
  document.title = `${found.sentences[0] ?? paragraph} – moments`;
  $("sentences").replaceChildren(
    ...found.sentences.map((text, index) => {
      const item = element("li", `s${index % 8}`);
      item.append(element("span", "chip", String(index + 1)), element("span", "", text));
      return item;
    }),
  );
  const unknown = found.unknown_words;
  $("unknown").hidden = !unknown.length;
  $("unknown").textContent =
    `${unknown.length === 1 ? "A word that the model does not know was" : "Words that the model does not know were"} ` +
    `left out: ${unknown.map((word) => `“${word}”`).join(", ")}.`;
  $("missing").hidden = true;
  shown.cards = found.hits.map((hit, index) => makeCard(hit, index, found.sentences));
  $("hits").replaceChildren(...shown.cards.map((card) => card.item));
  $("more").hidden = found.hits.length < top || top >= MOST;
  $("answer").hidden = false;
  $("help").hidden = true;
}

function makeCard(hit, index, sentences) {
  const item = copy("hit");
  const part = (kind) => item.querySelector(kind);
  const card = { hit, item, video: part("video"), bars: [], rows: [], active: -1, wanted: 0 };
  card.sentences = sentences;
  part("article").setAttribute("aria-label", `${index + 1}. ${hit.video}`);
  part(".rank").textContent = `${index + 1}.`;
  part(".name").textContent = hit.video;
  const length = hit.duration < 120 ? `${hit.duration.toFixed(1)} s` : clock(hit.duration, 0);
  part(".fit").textContent = `score ${figure(hit.score)} · ${length}`;
  hit.moments.forEach((moment, each) => addMoment(card, moment, each));
  if (card.bars[0]) card.bars[0].tabIndex = 0;
  scale(part(".scale"), hit.duration);
  part(".maps").addEventListener("click", () => toggleMaps(card));
  part(".link").href = address(shown.paragraph, shown.top, hit.video, 1);
  part(".link").addEventListener("click", (event) => share(event, card));
  prepare(card);
  return card;
}

function addMoment(card, moment, index) {
  const { hit, item } = card;
  const row = copy("moment");
  const bar = row.querySelector(".bar");
  const link = row.querySelector(".sentence");
  const text = card.sentences[index] ?? "";
  row.classList.add(`s${index % 8}`);
  row.querySelector(".chip").textContent = String(index + 1);
  link.textContent = text;
  link.title = text;
  link.href = address(shown.paragraph, shown.top, hit.video, index + 1);
  row.querySelector(".time").textContent = when(moment, hit.duration);
  const span = Math.max(hit.duration, moment.end, 1e-6);
  bar.style.left = `${(100 * moment.start) / span}%`;
  bar.style.width = `${(100 * (moment.end - moment.start)) / span}%`;
  bar.setAttribute("aria-label", `Sentence ${index + 1}, ${spoken(moment, hit.duration)}: ${text}`);
  bar.title = `${when(moment, hit.duration)}, score ${figure(moment.score)}`;
  bar.addEventListener("click", () => go(card, index, true));
  bar.addEventListener("keydown", (event) => step(event, card, index));
  bar.addEventListener("keyup", (event) => event.key === " " && event.preventDefault());
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
    event.preventDefault();
    bar.focus({ preventScroll: true });
    go(card, index, true);
  });
  card.bars.push(bar);
  card.rows.push(row);
  item.querySelector(".axis").before(row);
}

function ticks(duration, most) {
  const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
  const step = steps.find((each) => duration / each <= most) ?? 3600 * Math.ceil(duration / 3600 / most);
  return Array.from({ length: Math.floor(duration / step + 1e-6) + 1 }, (_, index) => index * step);
}

function mark(time, duration) {
  return duration < 120 ? String(time) : clock(time, 0);
}

function scale(place, duration) {
  if (!(duration > 0)) return;
  for (const time of ticks(duration, duration < 120 ? 6 : 4)) {
    const label = element("span", "", mark(time, duration) + (time === 0 && duration < 120 ? " s" : ""));
    label.style.left = `${(100 * time) / duration}%`;
    place.append(label);
  }
}

/* Playing */

const visible = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        visible.unobserve(target);
        target.dispatchEvent(new Event("needed"));
      }
    }
  },
  { rootMargin: "400px" },
);

function prepare(card) {
  const { video, hit } = card;
  video.setAttribute("aria-label", `Video ${hit.video}`);
  if (hit.fault) return unplayable(card, () => `Not playable: ${hit.fault}`);
  video.addEventListener("needed", () => load(card));
  video.addEventListener("loadedmetadata", () => {
    if (!video.videoWidth) {
      unplayable(card, () => `This browser cannot show the picture of this ${hit.container}; ${moments(card)}`);
    } else if (card.active < 0 && hit.moments.length) {
      video.currentTime = hit.start + hit.moments[0].start; // the picture to be seen at first
    }
  });
  video.addEventListener("error", () => video.getAttribute("src") && blame(card));
  video.addEventListener("play", () => {
    for (const other of shown?.cards ?? []) if (other !== card) other.video.pause();
    follows(card);
  });
  // Some files only show while they load how long they are, and until then a seek ends too early.
  video.addEventListener("durationchange", () => {
    if (!video.seeking && card.wanted > video.currentTime + 0.25) video.currentTime = card.wanted;
  });
  video.addEventListener("seeked", () => {
    if (video.currentTime > card.wanted - 0.25) card.wanted = 0;
  });
  for (const kind of ["seeked", "timeupdate"]) video.addEventListener(kind, () => place(card));
  visible.observe(video);
}

function load(card) {
  const { video, hit } = card;
  if (!hit.fault && !card.fault && !video.getAttribute("src")) {
    video.src = `/video?id=${encodeURIComponent(hit.video)}`;
  }
}

function place(card) {
  const at = (card.video.currentTime - card.hit.start) / (card.hit.duration || 1);
  card.item.classList.add("playing");
  card.item.style.setProperty("--at", String(Math.min(Math.max(at, 0), 1)));
}

function follows(card) {
  place(card);
  if (!card.video.paused && !card.video.ended) requestAnimationFrame(() => follows(card));
}

function moments(card) {
  const { hit, active } = card;
  const moment = hit.moments[Math.max(active, 0)];
  return moment ? `the moment is ${when(moment, hit.duration)}` : "";
}

/* The video cannot be played: say why, from the server where it knows, and the time at least. */
async function blame(card) {
  const { video, hit } = card;
  let why = `This browser cannot play ${hit.container}; `;
  try {
    const response = await fetch(video.src, { headers: { Range: "bytes=0-0" } });
    if (!response.ok) why = `Not playable: ${(await response.json()).error}; `;
  } catch {
    why = "Not playable: the server does not answer; ";
  }
  unplayable(card, () => why + moments(card));
}

function unplayable(card, why) {
  card.fault = why;
  card.video.hidden = true;
  card.item.querySelector(".player").classList.add("without");
  const place = card.item.querySelector(".fault");
  place.textContent = sentence(why());
  place.hidden = false;
}

function go(card, index, play) {
  const { hit, video } = card;
  const moment = hit.moments[index];
  if (!moment) return;
  for (const other of shown.cards) {
    other.rows.forEach((row, each) => {
      const chosen = other === card && each === index;
      row.classList.toggle("active", chosen);
      if (chosen) other.bars[each].setAttribute("aria-current", "true");
      else other.bars[each].removeAttribute("aria-current");
    });
    if (other !== card) other.active = -1;
  }
  card.active = index;
  rove(card, index);
  const link = address(shown.paragraph, shown.top, hit.video, index + 1);
  card.item.querySelector(".link").href = link;
  history.replaceState(null, "", link);
  if (hit.fault || card.fault) {
    if (card.fault) card.item.querySelector(".fault").textContent = sentence(card.fault());
    return;
  }
  load(card);
  const seek = () => {
    if (card.active !== index) return; // another moment was chosen meanwhile
    card.wanted = hit.start + moment.start;
    video.currentTime = card.wanted;
    if (play) video.play().catch(() => {}); // refused, or another choice came
  };
  if (video.readyState >= HTMLMediaElement.HAVE_METADATA) seek();
  else video.addEventListener("loadedmetadata", seek, { once: true });
}

function rove(card, index) {
  card.bars.forEach((bar, each) => (bar.tabIndex = each === index ? 0 : -1));
}

function step(event, card, index) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " ") {
    event.preventDefault();
    const { video } = card;
    if (card.active !== index || video.readyState === 0) go(card, index, true);
    else if (video.paused) video.play().catch(() => {});
    else video.pause();
    return;
  }
  const all = shown.cards.flatMap((each) => each.bars.map((bar, at) => [each, at, bar]));
  const here = all.findIndex(([each, at]) => each === card && at === index);
  const there = {
    ArrowDown: here + 1,
    ArrowRight: here + 1,
    ArrowUp: here - 1,
    ArrowLeft: here - 1,
    Home: here - index,
    End: here - index + card.bars.length - 1,
  }[event.key];
  if (there === undefined) return;
  event.preventDefault();
  if (!all[there]) return;
  const [next, at, bar] = all[there];
  rove(next, at);
  bar.focus();
}

async function share(event, card) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const link = event.currentTarget;
  history.replaceState(null, "", link.getAttribute("href"));
  const said = card.item.querySelector(".said");
  try {
    await navigator.clipboard.writeText(link.href);
    said.textContent = "Copied.";
  } catch {
    said.textContent = "The link is in the address bar.";
  }
}

/* Score maps: start to the right, end upwards, colour for the score */

const COLOURS = [ // dark to light, so that they differ without hue
  [36, 24, 84], [52, 60, 130], [44, 100, 146], [36, 138, 142], [70, 174, 122], [150, 204, 90], [246, 228, 84],
];
const SHADES = 48;

function colour(part) {
  const at = Math.min(Math.max(part, 0), 1) * (COLOURS.length - 1);
  const low = COLOURS[Math.floor(at)];
  const high = COLOURS[Math.ceil(at)];
  const mixed = low.map((value, each) => Math.round(value + (high[each] - value) * (at % 1)));
  return `rgb(${mixed.join(",")})`;
}

async function toggleMaps(card) {
  const button = card.item.querySelector(".maps");
  const place = card.item.querySelector(".drawn");
  const said = card.item.querySelector(".said");
  const open = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", String(open));
  place.hidden = !open;
  if (!open || place.childElementCount) return;
  said.textContent = "Scoring every span…";
  try {
    const asking = { paragraph: shown.paragraph, video: card.hit.video };
    const found = await ask("/score-maps", asking);
    said.textContent = "";
    place.append(...drawMaps(card, found));
  } catch (fault) {
    button.setAttribute("aria-expanded", "false");
    place.hidden = true;
    said.textContent = `No score map: ${reason(fault)}`;
  }
}

function drawMaps(card, { duration, maps }) {
  let low = Infinity;
  let high = -Infinity;
  for (const { scores } of maps) {
    for (const score of scores) {
      low = Math.min(low, score);
      high = Math.max(high, score);
    }
  }
  const key = element("div", "key");
  const range = high - low;
  const ramp = drawn("svg", { viewBox: `0 0 ${SHADES} 1`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (let shade = 0; shade < SHADES; shade += 1) {
    ramp.append(drawn("rect", { x: shade, width: SHADES - shade, height: 1, fill: colour(shade / (SHADES - 1)) }));
  }
  if (low <= high) {
    key.append(element("span", "", `score ${figure(low, range)}`), ramp, element("span", "", figure(high, range)));
  }
  if (maps.some((map) => map.reduced)) {
    key.append(element("span", "", "Each square shows the best of the spans in it."));
  }
  const figures = element("div", "figures");
  figures.append(...maps.map((map, index) => drawMap(card, map, index, duration, low, high)));
  return [key, figures];
}

function drawMap(card, map, index, duration, low, high) {
  const [left, top, side, bottom, right] = [34, 8, 220, 32, 10];
  const longest = map.ends.reduce((most, end) => Math.max(most, end), duration || 1);
  const x = (time) => left + (side * time) / longest;
  const y = (time) => top + side - (side * time) / longest;
  const best = map.scores.indexOf(map.scores.reduce((most, score) => Math.max(most, score), -Infinity));
  const span = (each) => when({ start: map.starts[each], end: map.ends[each] }, duration);
  const score = (each) => figure(map.scores[each], high - low);
  const told = best < 0 ? "no span has a score" : `best ${span(best)}, score ${score(best)}`;
  const svg = drawn("svg", {
    viewBox: `0 0 ${left + side + right} ${top + side + bottom}`,
    role: "img",
    "aria-label": `Score of every span for sentence ${index + 1}: ${told}`,
  });
  const paths = Array.from({ length: SHADES }, () => []);
  const size = (side * map.step) / longest;
  const square = `h${size.toFixed(3)}v${size.toFixed(3)}h-${size.toFixed(3)}z`;
  map.scores.forEach((each, at) => {
    const part = high > low ? (each - low) / (high - low) : 1;
    paths[Math.round(part * (SHADES - 1))].push(
      `M${x(map.starts[at]).toFixed(3)} ${y(map.ends[at]).toFixed(3)}${square}`,
    );
  });
  paths.forEach((path, shade) => {
    if (path.length) svg.append(drawn("path", { class: "cells", d: path.join(""), fill: colour(shade / (SHADES - 1)) }));
  });
  svg.append(drawn("path", { class: "frame", d: `M${left} ${top}V${top + side}H${left + side}` }));
  for (const time of ticks(longest, duration < 120 ? 5 : 3)) {
    svg.append(
      drawn("path", { class: "tick", d: `M${x(time)} ${top + side}v4M${left} ${y(time)}h-4` }),
      drawn("text", { x: x(time), y: top + side + 15, "text-anchor": "middle" }, mark(time, duration)),
      drawn("text", { x: left - 7, y: y(time) + 3.5, "text-anchor": "end" }, mark(time, duration)),
    );
  }
  const unit = duration < 120 ? ", s" : "";
  svg.append(
    drawn("text", { x: left + side / 2, y: top + side + 28, "text-anchor": "middle" }, `start${unit}`),
    drawn("text", { x: 9, y: top + side / 2, "text-anchor": "middle", transform: `rotate(-90 9 ${top + side / 2})` }, `end${unit}`),
  );
  const ring = drawn("rect", { class: "chosen", width: size, height: size });
  svg.append(ring);
  const line = element("p", "pointed");
  const point = (each, prefix) => {
    ring.setAttribute("visibility", each < 0 ? "hidden" : "visible");
    if (each < 0) return (line.textContent = sentence(told));
    ring.setAttribute("x", x(map.starts[each]));
    ring.setAttribute("y", y(map.ends[each]));
    line.textContent = `${prefix}${span(each)}, score ${score(each)}`;
  };
  point(best, "Best ");
  svg.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const start = ((at.x - left) / side) * longest;
    const end = ((top + side - at.y) / side) * longest;
    const each = map.starts.findIndex(
      (first, i) => first <= start && start < first + map.step && map.ends[i] - map.step < end && end <= map.ends[i],
    );
    if (each >= 0) point(each, "");
    else point(best, "Best ");
  });
  svg.addEventListener("pointerleave", () => point(best, "Best "));
  const made = element("figure", `s${index % 8}`);
  const caption = element("figcaption");
  caption.append(element("span", "chip", String(index + 1)), element("span", "", map.sentence));
  made.append(caption, svg, line);
  return made;
}

/* The box */

function count() {
  const length = [...box.value.trim()].length;
  const place = $("count");
  place.textContent = length > 0.9 * MOST_CHARACTERS ? `${length.toLocaleString("en")} of ${MOST_CHARACTERS.toLocaleString("en")} characters` : "";
  place.classList.toggle("over", length > MOST_CHARACTERS);
}

function submit() {
  const paragraph = box.value.trim();
  if (!paragraph) {
    tell("Write a sentence first.");
    box.focus();
    return;
  }
  history.pushState(null, "", address(paragraph, FIRST));
  answer(paragraph, FIRST);
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
box.addEventListener("input", count);
box.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest?.("input, textarea, select")) return;
  event.preventDefault();
  box.focus();
  box.select();
});
$("more").addEventListener("click", async () => {
  const top = Math.min(shown.top + FIRST, MOST);
  const first = shown.cards.length;
  history.replaceState(null, "", address(shown.paragraph, top));
  if (await answer(shown.paragraph, top)) shown.cards[first]?.bars[0]?.focus();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // what follows the # is a question
  if (shown) $("answer").focus();
});
addEventListener("popstate", follow);

function introduce({ about, videos: number }) {
  $("size").textContent = videos(number);
  if (about.model !== undefined) who = `, by ${about.model}`;
  if (who && about.epoch !== undefined) who += ` of epoch ${about.epoch}`;
  for (const [name, value] of Object.entries(about)) {
    const row = element("div");
    const text = value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
    row.append(element("dt", "", name), element("dd", "", text));
    $("about").append(row);
  }
}

if (/Mac|iPhone|iPad/.test(navigator.platform)) document.querySelector("kbd").textContent = "⌘";
if (!location.hash && matchMedia("(hover: hover)").matches) box.focus();
ask("/about")
  .then(introduce)
  .then(() => location.hash && !shown && follow()) // unless somebody was quicker
  .catch((fault) => complain(fault, () => location.reload()));
