"""The HTML of the page for votes; `__DATA__` is replaced by its pictures and questions."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Which is better?</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<style>
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
header, .bar { display: flex; gap: 1rem; align-items: center; flex-wrap: wrap; }
header h1 { font-size: 1.2rem; margin: 0; flex: 1; }
#instruction { font-size: 1.1rem; font-weight: 600; margin: .8rem 0; }
.clips { display: grid; grid-template-columns: 1fr 1fr 1fr; gap: .8rem; }
.clips figure { margin: 0; } .clips figcaption { text-align: center; color: #555; }
canvas { width: 100%; background: #eee; image-rendering: auto; }
fieldset { border: 1px solid #ccc; margin: .5rem 0; display: flex; gap: 1.2rem; align-items: center; }
fieldset.open { border-color: #b60; } legend { padding: 0 .4rem; } label { cursor: pointer; }
button { font: inherit; padding: .3rem .8rem; } #frame { flex: 1; } .hint { color: #666; font-size: .9rem; }
</style></head><body>
<header><h1>Which is better? <span id="place"></span></h1>
<label>Your name or number <input id="voter" size="12"></label>
<button id="save">Save answers</button></header>
<p id="instruction"></p>
<div class="clips">
<figure><canvas id="source"></canvas><figcaption>before the edit</figcaption></figure>
<figure><canvas id="left"></canvas><figcaption>left</figcaption></figure>
<figure><canvas id="right"></canvas><figcaption>right</figcaption></figure></div>
<div class="bar"><button id="play">Pause</button><input id="frame" type="range" min="0" value="0">
<span class="hint">space: play or pause; "where" shows the part that a question is about</span></div>
<form id="questions"></form>
<div class="bar"><button id="back">Back</button><button id="next">Next</button>
<span id="left-over" class="hint"></span></div>
<script type="application/json" id="data">__DATA__</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const store = "scene4d-votes-" + data.page, by = (id) => document.getElementById(id);
const state = { at: 0, frame: 0, playing: true, shown: null, images: {}, answers: {} };

function recall() {
  try {
    const old = JSON.parse(localStorage.getItem(store));
    if (old) { state.answers = old.answers; by("voter").value = old.voter; }
  } catch (error) { state.answers = {}; }
}
function keep() {
  try { localStorage.setItem(store, JSON.stringify({ answers: state.answers, voter: by("voter").value })); }
  catch (error) { by("left-over").title = "this browser keeps no answers: save them before you close the page"; }
}
function result(pairs, answers, voter) {
  const list = [];
  for (const pair of pairs) for (const question of pair.questions) {
    const answer = (answers[pair.id] || {})[question];
    if (answer) list.push({ pair: pair.id, question: question, answer: answer });
  }
  return { format: data.format, version: data.version, page: data.page, voter: voter, kind: "person", answers: list };
}
function missing(pairs, answers) {
  let count = 0;
  for (const pair of pairs) for (const question of pair.questions) if (!(answers[pair.id] || {})[question]) count += 1;
  return count;
}
function load(pair) {
  const read = (kind, text) => {
    const image = new Image();
    image.src = "data:image/" + kind + ";base64," + text;
    return image;
  };
  state.images = { roles: pair.roles.map((t) => read("png", t)) };
  for (const name of ["source", "left", "right"]) state.images[name] = pair[name].map((t) => read("jpeg", t));
}
function draw() {
  for (const name of ["source", "left", "right"]) {
    const image = state.images[name][state.frame], canvas = by(name);
    if (!image.complete || !image.naturalWidth) continue;
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    if (state.shown && name !== "source") dim(pen, canvas.width, canvas.height);
  }
}
function dim(pen, width, height) {
  const roles = state.images.roles[state.frame];
  if (!roles.complete || !roles.naturalWidth) return;
  const other = document.createElement("canvas"); other.width = width; other.height = height;
  const brush = other.getContext("2d");
  brush.imageSmoothingEnabled = false;
  brush.drawImage(roles, 0, 0, width, height);
  const role = brush.getImageData(0, 0, width, height).data, picture = pen.getImageData(0, 0, width, height);
  for (let i = 0; i < role.length; i += 4) if (!state.shown.includes(role[i]))
    for (let k = 0; k < 3; k += 1) picture.data[i + k] = 40 + picture.data[i + k] / 5;
  pen.putImageData(picture, 0, 0);
}
function ask(pair) {
  const form = by("questions"); form.replaceChildren();
  for (const name of pair.questions) {
    const question = data.questions[name];
    const box = document.createElement("fieldset"), legend = document.createElement("legend");
    legend.textContent = question.text; box.append(legend);
    for (const [value, text] of [["left", "left"], ["tie", "no difference"], ["right", "right"]]) {
      const label = document.createElement("label"), input = document.createElement("input");
      input.type = "radio"; input.name = name; input.value = value;
      input.checked = (state.answers[pair.id] || {})[name] === value;
      input.onchange = () => {
        (state.answers[pair.id] ||= {})[name] = value;
        box.className = ""; keep(); count();
      };
      label.append(input, " " + text); box.append(label);
    }
    if (question.regions.length) {
      const where = document.createElement("button"); where.type = "button"; where.textContent = "where";
      where.onclick = () => { state.shown = state.shown === question.regions ? null : question.regions; draw(); };
      box.append(where);
    }
    if (!(state.answers[pair.id] || {})[name]) box.className = "open";
    form.append(box);
  }
}
function count() {
  const open = missing(data.pairs, state.answers);
  by("left-over").textContent = open ? open + " answers are open" : "all answered: save your answers";
}
function go(to) {
  state.at = Math.max(0, Math.min(data.pairs.length - 1, to)); state.frame = 0; state.shown = null;
  const pair = data.pairs[state.at];
  by("place").textContent = (state.at + 1) + " of " + data.pairs.length;
  by("instruction").textContent = pair.instruction;
  by("frame").max = pair.left.length - 1; by("frame").value = 0;
  load(pair); ask(pair); count();
  state.images.left.concat(state.images.right, state.images.source).forEach((image) => { image.onload = draw; });
}
function tick() {
  const pair = data.pairs[state.at];
  if (state.playing) { state.frame = (state.frame + 1) % pair.left.length; by("frame").value = state.frame; draw(); }
  setTimeout(tick, 1000 / Math.max(2, Math.min(60, pair.fps)));
}
function toggle() { state.playing = !state.playing; by("play").textContent = state.playing ? "Pause" : "Play"; }
function save() {
  const text = JSON.stringify(result(data.pairs, state.answers, by("voter").value), null, 1);
  const name = by("voter").value.replace(/[^A-Za-z0-9]/g, "") || "anonymous", link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "votes-" + data.page + "-" + name + ".json";
  link.click();
}
by("play").onclick = toggle; by("save").onclick = save; by("voter").onchange = keep;
by("next").onclick = () => go(state.at + 1); by("back").onclick = () => go(state.at - 1);
by("frame").oninput = () => {
  state.playing = false; by("play").textContent = "Play";
  state.frame = +by("frame").value; draw();
};
document.addEventListener("keydown", (event) => {
  const busy = event.target.tagName === "INPUT" || event.target.tagName === "BUTTON";
  if (event.key === " " && !busy) { event.preventDefault(); toggle(); }
});
recall(); go(0); tick();
</script></body></html>
"""
