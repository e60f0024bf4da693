// Shows what /events sends. Names of classes, files and sources are data: they are only ever put
// into textContent, never into markup.
"use strict";

const SAMPLE_MS = 500; // one point of a sparkline
const SAMPLES = 120; // a minute
const RETRY_MS = 3000;
const SPEAK_MS = 4000; // for screen readers: not oftener than can be listened to

const byId = (id) => document.getElementById(id);
const picture = byId("picture");

let source = null; // the EventSource
let retry = 0;
let paused = false;
let latest = null;
let lastSpokenMs = 0;
let shownEvents = "";
const rates = [];
const ages = [];
const drops = [];
let countedDrops = null;

function setText(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const percent = (share) => `${(share * 100).toFixed(1)} %`;

function milliseconds(value) {
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}

function showState(state) {
  const pill = byId("state");
  pill.dataset.state = state;
  setText("state", state === "lost" ? "no connection" : state);
}

function showAnswer(answer) {
  const best = answer === null ? undefined : answer.top[0];
  setText("best", best === undefined ? "–" : best.name);
  byId("unsure").hidden = answer === null || answer.accepted;
  const file = byId("file");
  file.hidden = answer === null || answer.name === null;
  if (!file.hidden) setText("file", answer.name);
  const list = byId("top");
  const top = answer === null ? [] : answer.top;
  while (list.children.length > top.length) list.lastElementChild.remove();
  while (list.children.length < top.length) {
    const row = element("li");
    const track = element("div", "track");
    track.setAttribute("aria-hidden", "true");
    track.append(element("div", "fill"));
    row.append(element("span", "class"), element("span", "share"), track);
    list.append(row);
  }
  top.forEach((item, rank) => {
    const [name, share, track] = list.children[rank].children;
    name.textContent = item.name;
    share.textContent = percent(item.probability);
    track.firstElementChild.style.width = `${item.probability * 100}%`;
  });
  speak(answer, best);
}

function speak(answer, best) {
  const now = performance.now();
  if (best === undefined || now - lastSpokenMs < SPEAK_MS) return;
  lastSpokenMs = now;
  setText("spoken", answer.accepted ? best.name : `unsure, perhaps ${best.name}`);
}

function showStages(stages) {
  const body = byId("stages");
  for (const [name, times] of Object.entries(stages)) {
    let row = [...body.rows].find((candidate) => candidate.dataset.stage === name);
    if (row === undefined) {
      row = element("tr");
      row.dataset.stage = name;
      const head = element("th", "", name);
      head.scope = "row";
      row.append(head, element("td"), element("td"), element("td"));
      body.append(row);
    }
    ["p50", "p90", "p99"].forEach((key, at) => {
      row.cells[at + 1].textContent = times.count > 0 ? milliseconds(times[key]) : "–";
    });
  }
}

function showEvents(events) {
  const key = events.map((event) => event.kind + event.message).join("\n") + events.length;
  if (key === shownEvents) return;
  shownEvents = key;
  const rows = [...events].reverse().map((event) => {
    const row = element("li");
    const time = element("time", "", new Date(event.time).toLocaleTimeString());
    time.dateTime = event.time;
    row.append(time, " ", element("strong", "", event.kind), ` ${event.message}`);
    return row;
  });
  byId("events").replaceChildren(...rows);
  byId("no-events").hidden = rows.length > 0;
}

function show(state) {
  latest = state;
  showState(state.state);
  setText("source", state.source);
  setText("engine", state.engine);
  showAnswer(state.answer);
  const frames = state.frames;
  setText("fps", state.fps.toFixed(1));
  setText("answered", frames.answered.toLocaleString());
  setText("age", state.age_ms.count > 0 ? milliseconds(state.age_ms.p50) : "–");
  setText("age-p99", state.age_ms.count > 0 ? milliseconds(state.age_ms.p99) : "–");
  setText("dropped", frames.dropped.toLocaleString());
  const share = frames.captured > 0 ? frames.dropped / frames.captured : 0;
  setText("dropped-share", `of ${frames.captured.toLocaleString()} (${percent(share)})`);
  setText("corrupt", frames.corrupt.toLocaleString());
  setText("reconnects", state.reconnects.toLocaleString());
  setText("uptime", clock(state.uptime_s));
  setText("memory", (state.rss_bytes / 1e6).toFixed(0));
  picture.alt = `Live picture of ${state.source}`;
  showStages(state.stages_ms);
  showEvents(state.events);
  document.title = state.answer !== null && state.answer.top.length > 0
    ? `${state.answer.top[0].name} – alexnet-edge` : "alexnet-edge camera";
}

function drawSpark(id, values, label) {
  const peak = Math.max(...values, 0);
  const scale = peak > 0 ? 27 / peak : 0;
  const start = SAMPLES - values.length; // the newest is at the right edge
  const points = values.map((value, at) => `${start + at} ${(29 - value * scale).toFixed(2)}`);
  const line = points.length > 0 ? `M${points.join("L")}` : "";
  const spark = byId(id);
  spark.querySelector(".line").setAttribute("d", line);
  spark.querySelector(".area").setAttribute("d", line && `${line}V30H${start}Z`);
  spark.setAttribute("aria-label", label(peak));
}

function sample() {
  if (latest === null || source === null) return;
  const fresh = latest.state === "running" && latest.answer !== null;
  rates.push(latest.fps);
  ages.push(fresh ? latest.answer.age_ms : 0);
  const dropped = latest.frames.dropped;
  drops.push(countedDrops === null ? 0 : Math.max(0, dropped - countedDrops));
  countedDrops = dropped;
  for (const values of [rates, ages, drops]) if (values.length > SAMPLES) values.shift();
  drawSpark("fps-spark", rates, (peak) => `Rate over the last minute, up to ${peak.toFixed(1)} fps`);
  drawSpark("age-spark", ages, (peak) => `Age over the last minute, up to ${milliseconds(peak)} ms`);
  drawSpark("drops-spark", drops, (peak) => `Drops over the last minute, up to ${peak} in half a second`);
  setText("age-peak", milliseconds(Math.max(...ages, 0)));
}

function connect() {
  clearTimeout(retry);
  if (source !== null) source.close();
  source = new EventSource("events");
  // Every time: a stream that broke off with the connection ends without an error of its own.
  source.onopen = watch;
  source.onmessage = (message) => show(JSON.parse(message.data));
  source.onerror = () => {
    showState("lost");
    // A browser tries again by itself, except after an answer such as 401 or 503.
    if (source !== null && source.readyState === EventSource.CLOSED) retry = setTimeout(connect, RETRY_MS);
  };
}

// A query of its own, so that no ended stream is taken from the cache.
function watch() {
  picture.src = `stream.mjpg?${Date.now()}`;
}

// A browser opens six connections to a host at most, and every tab holds two.
function disconnect() {
  clearTimeout(retry);
  if (source !== null) source.close();
  source = null;
  picture.removeAttribute("src");
}

picture.addEventListener("load", () => {
  picture.hidden = false;
  byId("no-picture").hidden = true;
});

picture.addEventListener("error", () => {
  if (source === null || paused) return;
  setTimeout(() => {
    if (source !== null && !paused) watch();
  }, RETRY_MS);
});

byId("pause").addEventListener("click", () => {
  paused = !paused;
  setText("pause", paused ? "Go on" : "Pause");
  if (paused) {
    disconnect();
    picture.src = `snapshot.jpg?${Date.now()}`;
    setText("state", "paused");
  } else {
    connect();
  }
});

byId("full-screen").addEventListener("click", () => {
  if (document.fullscreenElement !== null) document.exitFullscreen();
  else byId("picture").parentElement.requestFullscreen();
});

document.addEventListener("visibilitychange", () => {
  if (paused) return;
  if (document.hidden) disconnect();
  else connect();
});

setInterval(sample, SAMPLE_MS);
if (!document.hidden) connect();
