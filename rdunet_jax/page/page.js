
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $$ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SCALES = {
  hu: { title: "Window, HU", level: [-1000, 1000, 10], width: [50, 2500, 10] },
  grey: { title: "Window, grey values", level: [0, 255, 0.5], width: [1, 255, 1] },
};
const HEAT = { low: [180, 40, 120], high: [255, 230, 80], opacity: 0.7 };

let patient = data.patients[0];
let slice = 0;
let planes = {}; // what is decoded of the slice on show

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function shape(name, attributes, className) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (className) made.setAttribute("class", className);
  return made;
}

function inWords(value) {
  if (value === null) return "–";
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(3);
}

/* Pictures: the browser decodes the PNGs; only the slice on show is held. */

async function decode(png) {
  if (!png) return null;
  const picture = new Image();
  picture.src = "data:image/png;base64," + png;
  await picture.decode();
  const canvas = document.createElement("canvas");
  const { width, height } = Object.assign(canvas, { width: picture.naturalWidth, height: picture.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  return { width, height, values: rgba.filter((_, index) => index % 4 === 0) };
}

function paint(canvas, plane, colour) {
  canvas.width = plane.width;
  canvas.height = plane.height;
  const picture = new ImageData(plane.width, plane.height);
  const pixels = new Uint32Array(picture.data.buffer);
  const table = new Uint32Array(256);
  const bytes = new Uint8ClampedArray(table.buffer);
  for (let code = 0; code < 256; code++) bytes.set(colour(code), 4 * code);
  plane.values.forEach((code, index) => (pixels[index] = table[code]));
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function grey(code) {
  const [middle, width] = [Number($$("level").value), Number($$("width").value)];
  const value = patient.hounsfield ? data.hounsfield[code] : code;
  const level = (255 * (value - middle + width / 2)) / width; // clamped and rounded by the array
  return [level, level, level, 255];
}

function heat(percent) {
  const p = Math.min(percent, 100) / 100;
  const colour = HEAT.low.map((low, index) => low + p * (HEAT.high[index] - low));
  return [...colour, 255 * HEAT.opacity * Math.sqrt(p)];
}

/** The border between a mask and what is not mask, pixel edge by pixel edge, as an SVG path. */
function outline(mask) {
  if (!mask) return "";
  const { width, height, values } = mask;
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && values[y * width + x] > 0;
  const path = [];
  const trace = (lines, length, differs, draw) => {
    for (let line = 0; line <= lines; line++) {
      for (let at = 0; at < length; at++) {
        const start = at;
        while (at < length && differs(line, at)) at++;
        if (at > start) path.push(draw(line, start, at - start));
      }
    }
  };
  trace(height, width, (y, x) => inside(x, y) !== inside(x, y - 1), (y, x, run) => `M${x} ${y}h${run}`);
  trace(width, height, (x, y) => inside(x, y) !== inside(x - 1, y), (x, y, run) => `M${x} ${y}v${run}`);
  return path.join("");
}

function paintImage() {
  if (planes.image) paint($$("image"), planes.image, grey);
}

let asked = 0;

async function showSlice() {
  const request = ++asked;
  describe();
  const kinds = ["image", "probability", "prediction", "truth"];
  const decoded = await Promise.all(kinds.map((kind) => decode(patient[kind]?.[slice])));
  if (request !== asked) return; // another slice was asked for meanwhile
  planes = Object.fromEntries(kinds.map((kind, index) => [kind, decoded[index]]));
  paintImage();
  if (planes.probability) paint($$("probability"), planes.probability, heat);
  for (const kind of ["prediction", "truth"]) {
    const path = outline(planes[kind]);
    for (const line of $$("outlines").getElementsByClassName(kind)) line.setAttribute("d", path);
  }
  $$("frame").dataset.slice = String(slice);
}

function showOverlays() {
  for (const kind of ["truth", "prediction"]) {
    const shown = $$("show-" + kind).checked;
    for (const line of $$("outlines").getElementsByClassName(kind)) line.toggleAttribute("hidden", !shown);
  }
  $$("probability").hidden = !(patient.probability && $$("show-probability").checked);
}

/** Ranges and presets of the window: Hounsfield units, or the grey values that are stored. */
function setScale() {
  const name = patient.hounsfield ? "hu" : "grey";
  if ($$("window").dataset.scale === name) return;
  $$("window").dataset.scale = name;
  $$("window-title").textContent = SCALES[name].title;
  for (const id of ["level", "width"]) {
    const [min, max, step] = SCALES[name][id];
    Object.assign($$(id), { min, max, step });
  }
  for (const button of document.querySelectorAll("[data-level]")) button.hidden = button.dataset.of !== name;
  preset(0);
}

function setWindow(level, width) {
  $$("level").value = level;
  $$("width").value = width;
  windowChanged();
}

function windowChanged() {
  for (const id of ["level", "width"]) document.querySelector(`output[for=${id}]`).value = $$(id).value;
  for (const preset of document.querySelectorAll("[data-level]")) {
    const { level, width } = preset.dataset;
    preset.setAttribute("aria-pressed", String(level === $$("level").value && width === $$("width").value));
  }
  paintImage();
}

/** The voxel under the pointer, in numbers. */
function probe(event) {
  const box = $$("frame").getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  const at = (plane, u, v) => plane.values[Math.floor(v * plane.height) * plane.width + Math.floor(u * plane.width)];
  if (!planes.image || x < 0 || y < 0 || x >= 1 || y >= 1) return;
  const code = at(planes.image, x, y);
  const hu = patient.hounsfield && `${Math.round(data.hounsfield[code])} HU`;
  const beyond = { 0: `${hu} or less`, 255: `${hu} or more` }; // the codes end there
  const words = [patient.hounsfield ? (beyond[code] ?? `about ${hu}`) : `grey value ${code}`];
  if (planes.probability) {
    const [top, left, height, width] = patient.crop;
    words.push(`probability ${(at(planes.probability, left + x * width, top + y * height) / 100).toFixed(2)}`);
  }
  $$("probe").value = words.join(" · ").replace("-", "−");
}

/* The slice in words. */

function verdict() {
  if (!patient.dice) return patient.predicted[slice] ? `predicted area ${patient.area[slice].toFixed(1)} cm²` : "nothing predicted";
  if (patient.falsePositive[slice]) return "✕ false positive: no tumour here";
  if (patient.falseNegative[slice]) return "○ missed: the prediction does not touch the tumour";
  return patient.tumour[slice] ? `Dice ${patient.dice[slice].toFixed(3)}` : "no tumour, none predicted";
}

function describe() {
  $$("slice").value = slice + 1;
  const wrong = patient.dice && (patient.falsePositive[slice] || patient.falseNegative[slice]);
  const place = `Slice ${slice + 1} of ${patient.depth}`;
  $$("where").replaceChildren(element("b", place), element("br"), element("span", verdict(), wrong ? "wrong" : ""));
  $$("slice").setAttribute("aria-valuetext", `${place}: ${verdict()}`);
  $$("frame").setAttribute("aria-label", `CT of ${patient.name}. ${place}: ${verdict()}`);
  const cursor = $$("bars").querySelector(".cursor");
  if (cursor) cursor.setAttribute("x", cursor.dataset.left * 1 + slice * cursor.dataset.step);
}

/* Moving between slices and patients. */

function goTo(wanted) {
  slice = Math.min(Math.max(wanted, 0), patient.depth - 1);
  showSlice();
}

function goToTumour(direction) {
  const marked = patient.tumour ?? patient.predicted;
  for (let at = slice + direction; at >= 0 && at < patient.depth; at += direction) {
    if (marked[at]) return goTo(at);
  }
}

function showPatient(index) {
  patient = data.patients[index];
  $$("patient").value = String(index);
  $$("slice").max = patient.depth;
  $$("truth-label").hidden = !patient.truth;
  $$("probability-label").hidden = !patient.probability;
  $$("window").hidden = !patient.image;
  setScale();
  $$("missing").hidden = Boolean(patient.image);
  ["left-side", "right-side"].forEach((id, index) => ($$(id).textContent = patient.sides?.[index] ?? ""));
  $$("image").hidden = $$("outlines").toggleAttribute("hidden", !patient.image);
  const [top, left, height, width] = patient.crop ?? [0, 0, 1, 1];
  const [, row, column] = patient.spacing;
  $$("frame").style.setProperty("--ratio", (width * patient.width * column) / (height * patient.height * row));
  $$("outlines").setAttribute("viewBox", [left * patient.width, top * patient.height, width * patient.width, height * patient.height].join(" "));
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  Object.assign($$("probability").style, {
    inset: "auto", left: percent(-left, width), top: percent(-top, height), width: percent(1, width), height: percent(1, height),
  });
  $$("scores").replaceChildren(...Object.entries(patient.scores).flatMap(([name, value]) => [element("dt", name), element("dd", inWords(value))]));
  showOverlays();
  drawStrip();
  goTo(firstShown());
}

/** The slice to look at first: that of the lowest Dice, or without truth of the largest predicted area. */
function firstShown() {
  const marked = [...patient.predicted.keys()].filter((at) => patient.predicted[at] || patient.tumour?.[at]);
  if (!marked.length) return Math.floor(patient.depth / 2);
  const rank = patient.dice ? (at) => patient.dice[at] : (at) => -patient.area[at];
  return marked.reduce((best, at) => (rank(at) < rank(best) ? at : best));
}

function optionOf({ name, scores }) {
  const [first] = Object.entries(scores);
  return first ? `${name} · ${first[0]} ${inWords(first[1])}` : name;
}

function addTable(caption, rows, onName) {
  if (!rows.length) return;
  const table = element("table");
  table.append(element("caption", caption));
  const columns = Object.keys(rows[0]);
  const head = table.createTHead().insertRow();
  for (const column of columns) head.append(Object.assign(element("th", column), { scope: "col" }));
  const body = table.createTBody();
  rows.forEach((row, index) => {
    const line = body.insertRow();
    columns.forEach((column, position) => {
      const cell = line.insertCell();
      if (onName && position === 0) {
        cell.append(Object.assign(element("button", row[column]), { type: "button", onclick: () => onName(index) }));
      } else cell.textContent = inWords(row[column] ?? null);
    });
  });
  const card = element("div", undefined, "table");
  card.tabIndex = 0; // so that keys can scroll a wide table
  card.setAttribute("role", "region");
  card.setAttribute("aria-label", caption);
  card.append(table);
  $$("tables").append(card);
}

const KEYS = {
  ArrowRight: () => goTo(slice + 1), ArrowUp: () => goTo(slice + 1),
  ArrowLeft: () => goTo(slice - 1), ArrowDown: () => goTo(slice - 1),
  PageUp: () => goTo(slice + 10), PageDown: () => goTo(slice - 10),
  Home: () => goTo(0), End: () => goTo(patient.depth - 1),
  n: () => goToTumour(1), m: () => goToTumour(-1),
  t: () => $$("show-truth").click(), p: () => $$("show-prediction").click(), h: () => $$("show-probability").click(),
  1: () => preset(0), 2: () => preset(1), 3: () => preset(2),
  "?": () => $$("help").showModal(),
};
const preset = (index) => document.querySelectorAll(`[data-of=${$$("window").dataset.scale}]`)[index]?.click();

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || $$("help").open || !Object.hasOwn(KEYS, event.key)) return;
  const { target } = event;
  const moves = event.key.length > 1;
  // Other controls keep their own arrows, and outside the viewer they scroll the page.
  if (moves && target !== document.body && (!$$("viewer").contains(target) || target.matches("select, #level, #width"))) return;
  if (!moves && target.matches("select")) return; // there letters choose
  event.preventDefault();
  KEYS[event.key]();
}

function setTheme(dark) {
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  $$("theme").textContent = dark ? "Light" : "Dark";
  $$("theme").onclick = () => setTheme(!dark);
}

function start() {
  $$("title").textContent = data.title;
  $$("notes").textContent = data.notes.join(" ");
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
  for (const { caption, rows } of data.tables) addTable(caption, rows);
  const select = (index) => (showPatient(index), $$("viewer").scrollIntoView());
  addTable("Patients", data.patients.map(({ name, scores }) => ({ Patient: name, ...scores })), select);
  document.addEventListener("keydown", onKey);
  $$("help-button").onclick = KEYS["?"];
  if (!patient) return void ($$("viewer").hidden = true);
  $$("patient").append(...data.patients.map((one, index) => Object.assign(element("option", optionOf(one)), { value: index })));
  $$("patient").onchange = (event) => showPatient(Number(event.target.value));
  $$("slice").oninput = (event) => goTo(event.target.value - 1);
  $$("next").onclick = KEYS.n;
  $$("previous").onclick = KEYS.m;
  for (const kind of ["truth", "prediction", "probability"]) $$("show-" + kind).onchange = showOverlays;
  for (const id of ["level", "width"]) $$(id).oninput = windowChanged;
  for (const button of document.querySelectorAll("[data-level]")) {
    button.onclick = () => setWindow(button.dataset.level, button.dataset.width);
  }
  $$("frame").onpointermove = probe;
  $$("frame").onpointerleave = () => ($$("probe").value = "");
  showPatient(0);
  new ResizeObserver(drawStrip).observe($$("bars"));
}

start();
