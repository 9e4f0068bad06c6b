// In a page that stands alone: the reader's own picture as pixels and patches. Nothing leaves the page.
// page.py puts camera.js in front of this, which gives camera(place, give).

const place = document.getElementById("own");
place.innerHTML = `
  <h2>With a picture of your own</h2>
  <p>This part works in this file, without a server. Point at a patch, or choose one with the arrow keys.</p>
  <p class="controls"><label>Picture <input type="file" accept="image/*"></label> <span class="webcam"></span></p>
  <p class="controls">
    <label>Pixels a side <select name="side"><option>16<option>32<option selected>48<option>64</select></label>
    <label>Patch side <select name="patch"><option>1<option>2<option selected>4<option>8</select></label>
  </p>
  <canvas width="480" height="480" tabindex="0" role="img" aria-label="No picture yet"></canvas>
  <p class="said" role="status">No picture yet.</p>`;
const find = (selector) => place.querySelector(selector);
const [canvas, said] = [find("canvas"), find(".said")];
const small = document.createElement("canvas");
let [source, awaited, chosen] = [null, null, [0, 0]]; // awaited: the picture that was asked for last

const number = (name) => Number(find(`[name=${name}]`).value);

function draw() {
  if (!source) return;
  const [side, patch] = [number("side"), number("patch")];
  small.width = small.height = side;
  const read = small.getContext("2d", { willReadFrequently: true });
  const square = Math.min(source.width, source.height);
  read.imageSmoothingQuality = "high";
  read.drawImage(source, (source.width - square) / 2, (source.height - square) / 2, square, square, 0, 0, side, side);
  const pen = canvas.getContext("2d");
  const step = (canvas.width * patch) / side;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  pen.strokeStyle = "#ff2d87";
  pen.lineWidth = 1;
  for (let at = step; patch > 1 && at < canvas.width; at += step) {
    pen.strokeRect(at, -1, 0, canvas.height + 2);
    pen.strokeRect(-1, at, canvas.width + 2, 0);
  }
  chosen = chosen.map((at) => Math.min(Math.max(at, 0), side / patch - 1));
  const [row, column] = chosen;
  pen.lineWidth = 4;
  pen.strokeRect(column * step, row * step, step, step);
  const values = [...read.getImageData(column * patch, row * patch, patch, patch).data].filter((_, i) => i % 4 < 3);
  const shown = values.slice(0, 12).join(", ") + (values.length > 12 ? ", ..." : "");
  const count = side / patch;
  said.textContent = patch === 1
    ? `image[${row}, ${column}] is [${shown}]; ${side} x ${side} x 3 = ${3 * side * side} numbers in all.`
    : `patches[${row}, ${column}] is ${values.length} numbers: [${shown}]. ${count} x ${count} = ${count * count} patches.`;
  canvas.setAttribute("aria-label", `Your picture. ${said.textContent}`);
}

function show(address) {
  source = awaited = null;
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", "No picture yet");
  if (!address) {
    said.textContent = "No picture yet.";
    return;
  }
  const image = (awaited = new Image());
  image.onload = () => {
    if (image !== awaited) return;
    source = image;
    draw();
  };
  image.onerror = () => {
    if (image === awaited) said.textContent = "That file is no picture that this browser can read.";
  };
  image.src = address;
}

const { forget } = camera(find(".webcam"), show);
find("input").addEventListener("click", (event) => {
  event.target.value = ""; // so that the same file again is a change; not earlier, since its name stands there
});
find("input").addEventListener("change", (event) => {
  if (!event.target.files[0]) return;
  forget();
  show(URL.createObjectURL(event.target.files[0]));
});
for (const select of place.querySelectorAll("select")) select.addEventListener("change", draw);
function point(event) {
  const [box, count] = [canvas.getBoundingClientRect(), number("side") / number("patch")];
  chosen = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width].map((at) => Math.floor(at * count));
  draw();
}

for (const name of ["pointermove", "pointerdown"]) canvas.addEventListener(name, point); // a tap does not move
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  chosen = chosen.map((at, i) => at + step[i]);
  draw();
});
