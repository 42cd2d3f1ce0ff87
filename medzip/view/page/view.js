"use strict";
// Everything that comes from an archive is put on the page as text (textContent), never as markup.

const ARRAYS = {
  "|u1": Uint8Array, "|i1": Int8Array, "<u2": Uint16Array, "<i2": Int16Array, "<u4": Uint32Array, "<i4": Int32Array,
  "<u8": BigUint64Array, "<i8": BigInt64Array, "<f4": Float32Array, "<f8": Float64Array,
};
const COLOURS = [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]];
const KEPT_BYTES = 1 << 26;
const element = (id) => document.getElementById(id);
const canvas = element("canvas");
const context = canvas.getContext("2d");

let archive = null;
let volume = 0;
let slice = 0;
let shown = null; // {volume, slice, samples, bits}
let level = 0;
let width = 1;
let chosen = false; // the window is the user's
const kept = new Map(); // answers by address, the oldest first
let running = false;

async function get(path, binary) {
  const response = await fetch(path, { cache: "no-store", credentials: "omit" });
  if (!response.ok) {
    let text = `the server answered ${response.status}`;
    try { text = (await response.json()).error; } catch { /* no text of ours */ }
    throw new Error(text);
  }
  return binary ? response.arrayBuffer() : response.json();
}

async function remembered(path, binary) {
  if (!kept.has(path)) kept.set(path, await get(path, binary));
  const answer = kept.get(path);
  kept.delete(path);
  kept.set(path, answer);
  let size = 0;
  for (const value of kept.values()) size += value.byteLength ?? 1 << 16;
  for (const [key, value] of kept) {
    if (size <= KEPT_BYTES || key === path) break;
    size -= value.byteLength ?? 1 << 16;
    kept.delete(key);
  }
  return answer;
}

function say(text, kind) {
  const message = element("message");
  message.hidden = !text;
  message.className = kind ?? "";
  message.textContent = text;
}

function row(cells) {
  const line = document.createElement("tr");
  for (const [text, kind] of cells) {
    const cell = document.createElement("td");
    cell.textContent = text;
    if (kind) cell.className = kind;
    line.append(cell);
  }
  return line;
}

const counted = (number) => number.toLocaleString("en");
const described = () => archive.volumes[volume];
const address = (what) => `volumes/${volume}/slices/${slice}/${what}`;

function chunkOf(index) {
  return described().chunks.find((chunk) => chunk.first <= index && index < chunk.end);
}

// One request at a time; of those that pile up meanwhile only the last is made.
async function show() {
  element("slice").value = slice;
  element("place").textContent = `${slice + 1} / ${described().shape[0]}`;
  if (running) return;
  running = true;
  const waiting = setTimeout(() => say("decoding…", "busy"), 150);
  try {
    let wanted;
    do {
      wanted = [volume, slice, wantsBits()].join();
      await load();
    } while (wanted !== [volume, slice, wantsBits()].join());
    say("");
  } catch (error) {
    shown = null;
    context.clearRect(0, 0, canvas.width, canvas.height);
    say(error.message, "error");
  } finally {
    clearTimeout(waiting);
    running = false;
  }
}

async function load() {
  const [ofVolume, ofSlice] = [volume, slice];
  const samples = await remembered(address("samples"), true);
  const bits = wantsBits() ? new Float32Array(await remembered(address("bits"), true)) : null;
  const header = await remembered(address("header"), false);
  const values = new ARRAYS[archive.volumes[ofVolume].dtype](samples);
  shown = { volume: ofVolume, slice: ofSlice, samples: values, bits };
  if (!chosen) autoWindow();
  showHeader(header);
  showChunks();
  draw();
}

function wantsBits() {
  return element("bits").checked && Boolean(chunkOf(slice)?.tells);
}

function showHeader(header) {
  const personal = header.hidden ? `${header.hidden} values are hidden that may tell of the patient; --show-patient shows them. ` : "";
  element("file").textContent = header.file === null ? "" : `file ${header.file + 1} of ${archive.files} ${header.name}`;
  element("note").textContent = personal + header.note;
  const rows = header.rows.filter((one) => one.value !== null || one.name !== "Private element");
  element("rows").replaceChildren(...rows.map((one) => row([
    ["\u00a0".repeat(2 * one.depth) + one.tag, "tag"], [one.name], [one.vr], one.value === null ? ["hidden", "hidden"] : [one.value],
  ])));
}

function showChunks() {
  const lines = described().chunks.map((chunk) => {
    const coder = [chunk.kind, chunk.model, chunk.weights === chunk.model ? "" : chunk.weights].filter(Boolean).join(" ");
    const line = row([
      [`${chunk.first + 1} – ${chunk.end}`], [coder], [counted(chunk.bytes), "number"], [chunk.bits.toFixed(3), "number"],
    ]);
    line.addEventListener("click", () => go(chunk.first));
    if (chunk.first <= slice && slice < chunk.end) line.className = "current";
    return line;
  });
  element("chunks").replaceChildren(...lines);
  const tells = Boolean(chunkOf(slice)?.tells);
  element("bits").disabled = !tells;
  element("bits-label").className = tells ? "" : "off";
  element("bits-label").title = tells ? "" : "Only the pixel model can tell what each voxel costs.";
}

function autoWindow() {
  const { samples } = shown;
  if (described().shape.length === 4 && described().dtype === "|u1") {
    [level, width] = [127.5, 255];
    return;
  }
  const step = Math.max(1, Math.floor(samples.length / 65536));
  const some = [];
  for (let i = 0; i < samples.length; i += step) {
    const value = Number(samples[i]);
    if (Number.isFinite(value)) some.push(value);
  }
  some.sort((a, b) => a - b);
  const at = (share) => some[Math.min(some.length - 1, Math.floor(share * some.length))] ?? 0;
  const [low, high] = [at(0.01), at(0.995)];
  level = (low + high) / 2;
  width = high - low || Math.max(Math.abs(high), 1) / 256;
}

function colour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1);
  const below = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[below].map((part, i) => part + (place - below) * (COLOURS[below + 1][i] - part));
}

const PALETTE = Array.from({ length: 256 }, (_, i) => colour(i / 255));

// What most of the map's colours are for: 99 of 100 voxels cost no more.
function highestBits(bits) {
  const sorted = Float32Array.from(bits).sort();
  return Math.max(1, Math.ceil(sorted[Math.floor(0.99 * (sorted.length - 1))]));
}

function draw() {
  if (!shown || shown.volume !== volume) return;
  const [, rows, columns, colours = 1] = described().shape;
  const { samples, bits } = shown;
  const [invert, flip] = [element("invert").checked, element("flip").checked];
  const [factor, low] = [255 / width, level - width / 2];
  const most = bits ? highestBits(bits) : 1;
  canvas.width = columns;
  canvas.height = rows;
  const image = context.createImageData(columns, rows);
  for (let y = 0; y < rows; y++) {
    const from = (flip ? rows - 1 - y : y) * columns;
    for (let x = 0; x < columns; x++) {
      const to = 4 * (y * columns + x);
      for (let part = 0; part < 3; part++) {
        const value = Number(samples[colours * (from + x) + (colours === 3 ? part : 0)]);
        const grey = Math.min(255, Math.max(0, (value - low) * factor));
        image.data[to + part] = invert ? 255 - grey : grey;
      }
      if (bits) {
        const over = PALETTE[Math.min(255, Math.floor((255 * bits[from + x]) / most))];
        for (let part = 0; part < 3; part++) image.data[to + part] = 0.25 * image.data[to + part] + 0.75 * over[part];
      }
      image.data[to + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  fit();
  const rounded = (number) => (Math.abs(number) < 10 && !Number.isInteger(number) ? number.toPrecision(3) : number.toFixed(0));
  element("window").textContent = `level ${rounded(level)}, window ${rounded(width)}`;
  element("legend").hidden = !bits;
  if (bits) {
    const mean = bits.reduce((sum, one) => sum + one, 0) / bits.length;
    element("lowest").textContent = "0";
    element("highest").textContent = `${most} bits, mean ${mean.toFixed(2)}`;
  }
}

function fit() {
  const [, rows, columns] = described().shape;
  const stage = element("stage");
  const height = rows * described().aspect;
  const scale = Math.min(stage.clientWidth / columns, stage.clientHeight / height);
  canvas.style.width = `${columns * scale}px`;
  canvas.style.height = `${height * scale}px`;
}

function drawLegend() {
  const legend = element("colours");
  const pen = legend.getContext("2d");
  for (let x = 0; x < legend.width; x++) {
    pen.fillStyle = `rgb(${PALETTE[Math.floor((255 * x) / legend.width)].map(Math.round).join(",")})`;
    pen.fillRect(x, 0, 1, legend.height);
  }
}

function go(index) {
  slice = Math.min(Math.max(index, 0), described().shape[0] - 1);
  show();
}

function choose(index) {
  volume = index;
  slice = Math.floor(described().shape[0] / 2);
  chosen = false;
  element("slice").max = described().shape[0] - 1;
  element("flip").checked = described().upside_down;
  show();
}

function readOut(event) {
  if (!shown || shown.slice !== slice || shown.volume !== volume) return;
  const [, rows, columns, colours = 1] = described().shape;
  const box = canvas.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * columns);
  const seen = Math.floor(((event.clientY - box.top) / box.height) * rows);
  const y = element("flip").checked ? rows - 1 - seen : seen;
  if (x < 0 || y < 0 || x >= columns || y >= rows) return;
  const at = y * columns + x;
  const values = Array.from(shown.samples.slice(colours * at, colours * at + colours), String).join(", ");
  const cost = shown.bits ? `, ${shown.bits[at].toFixed(2)} bits` : "";
  element("readout").textContent = `row ${y}, column ${x}: ${values}${cost}`;
}

function listen() {
  const stage = element("stage");
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    go(slice + Math.sign(event.deltaY));
  }, { passive: false });
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, level, width };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    readOut(event);
    if (!drag) return;
    chosen = true;
    width = Math.max(drag.width * 2 ** ((event.clientX - drag.x) / 150), 1e-6);
    level = drag.level + ((event.clientY - drag.y) / 400) * drag.width;
    draw();
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { drag = null; });
  const auto = () => {
    chosen = false;
    if (shown) autoWindow();
    draw();
  };
  canvas.addEventListener("dblclick", auto);
  element("auto").addEventListener("click", auto);
  element("slice").addEventListener("input", (event) => go(Number(event.target.value)));
  element("volume").addEventListener("change", (event) => choose(Number(event.target.value)));
  for (const id of ["invert", "flip"]) element(id).addEventListener("change", draw);
  element("bits").addEventListener("change", show);
  new ResizeObserver(fit).observe(stage);
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target instanceof HTMLSelectElement) return;
    const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
    const boxes = { i: "invert", f: "flip", b: "bits" };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key in steps) go(slice + steps[key]);
    else if (key === "a") auto();
    else if (key in boxes) element(boxes[key]).click();
    else return;
    event.preventDefault();
  });
}

async function start() {
  say("opening…", "busy");
  try {
    archive = await get("archive", false);
  } catch (error) {
    say(error.message, "error");
    return;
  }
  const { about, files } = archive;
  const share = ((100 * archive.archive_bytes) / archive.original_bytes).toFixed(1);
  const kind = files === 1 ? "1 file" : `${counted(files)} files`;
  const sizes = `${counted(archive.original_bytes)} bytes in ${counted(archive.archive_bytes)} (${share} %)`;
  element("summary").textContent = [archive.name, kind, sizes, `preset ${about.preset}`, `guarantee ${about.guarantee}`]
    .filter(Boolean).join(" · ");
  if (!archive.volumes.length) {
    say("This archive holds files as they are, and no voxels to show.", "error");
    return;
  }
  archive.volumes.forEach((one, index) => {
    const option = document.createElement("option");
    option.value = index;
    option.textContent = `${index + 1}: ${one.shape.join(" × ")} ${one.stored}`;
    element("volume").append(option);
  });
  drawLegend();
  listen();
  choose(0);
}

start();
