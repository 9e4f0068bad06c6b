// Drawing: a picture on a canvas, a map over it, the legend that says what the colours mean. No requests here.
// A map is an array of rows of shares; "heat" is a share over an even share, so 1 is what an even map gives a patch.

// Seventeen stops of the inferno colours of Smith and van der Walt (CC0), dark to bright, also for the colour-blind.
const STOPS = "000004,0b0724,210c4a,3d0965,57106e,71196e,8a226a,a32c61,bc3754,d24644,e45a31,f1731d,f98e09,fcac11,f9cb35,f2ea69,fcffa4"
  .split(",").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

export function colour(warmth) {
  const at = Math.min(Math.max(warmth, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[low].map((value, i) => Math.round(value + (STOPS[low + 1][i] - value) * (at - low)));
}

export function heats(map) {
  const flat = map.flat().map((value) => Math.max(value, 0)); // what speaks against a class is left out
  const total = flat.reduce((sum, value) => sum + value, 0);
  return map.map((row) => row.map((value) => (total ? (Math.max(value, 0) * flat.length) / total : 1)));
}

// One scale for all maps that stand side by side. It spans at least half to one and a half of an even share, so that an
// even map looks even; a stray patch beyond the outer fiftieths does not turn the others dark.
export function scale(several) {
  const values = several.flat(2).sort((a, b) => a - b);
  const at = (share) => values[Math.round(share * (values.length - 1))];
  return [Math.min(at(0.02), 0.5), Math.max(at(0.98), 1.5)];
}

export function peak(heat) {
  let best = { row: 0, column: 0, value: -Infinity };
  heat.forEach((line, row) => line.forEach((value, column) => {
    if (value > best.value) best = { row, column, value };
  }));
  return best;
}

export function drawPicture(canvas, image) {
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = image.width > canvas.width; // small pictures keep their square pixels
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
}

// `across` is how many patches the picture is wide and high: a last patch that sticks out is cut off, and a border that
// no patch reaches repeats the one beside it.
export function drawHeat(canvas, heat, across, [low, high], chosen) {
  const [rows, columns] = [heat, heat[0]].map((line) => Math.max(line.length, Math.ceil(across)));
  const small = new OffscreenCanvas(columns, rows);
  const pixels = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const line = heat[Math.min(Math.floor(i / columns), heat.length - 1)];
    const value = line[Math.min(i % columns, line.length - 1)];
    pixels.data.set([...colour((value - low) / (high - low)), 255], 4 * i);
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.width / across, canvas.height / across];
  context.clearRect(0, 0, canvas.width, canvas.height);
  // Squares for the attention of one patch: there the question is which patch. Else smooth, to see the picture below.
  context.imageSmoothingEnabled = !chosen;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, (canvas.width * columns) / across, (canvas.height * rows) / across);
  if (!chosen) return;
  const box = [chosen[1] * width + 2, chosen[0] * height + 2, width - 4, height - 4];
  for (const [line, style] of [[6, "#000"], [3, "#fff"]]) {
    context.lineWidth = line;
    context.strokeStyle = style;
    context.strokeRect(...box);
  }
}

export function drawLegend(canvas) {
  const context = canvas.getContext("2d");
  const pixels = new ImageData(canvas.width, 1);
  for (let x = 0; x < canvas.width; x++) pixels.data.set([...colour(x / (canvas.width - 1)), 255], 4 * x);
  context.putImageData(pixels, 0, 0);
}
