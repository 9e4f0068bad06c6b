// One run's answer: the picture as the model sees it, the map over it, classes, and the choices of method and layer.

import { ask } from "./ask.js";
import { drawHeat, drawLegend, drawPicture, heats, peak } from "./draw.js";

const HOVER = 60; // milliseconds that the pointer rests on a patch before its attention is asked for
const percent = (share) => `${(100 * share).toFixed(1)} %`;

async function image(dataURL) {
  const found = new Image();
  found.src = dataURL;
  await found.decode();
  return found;
}

const bytes = (dataURL) => Uint8Array.from(atob(dataURL.split(",")[1]), (letter) => letter.charCodeAt(0));

export class Panel {
  // `changed` is called after every new answer or choice; `failed` with an Error.
  constructor(run, { changed, failed }) {
    Object.assign(this, { run, changed, failed, picture: null, seen: null, answer: null, shown: null, chosen: null });
    this.pinned = false;
    this.cache = new Map();
    this.element = document.getElementById("panel").content.cloneNode(true).firstElementChild;
    this.find = (selector) => this.element.querySelector(selector);
    this.find(".run-name bdi").textContent = run.name;
    const facts = document.createElement("small");
    facts.textContent = ` ${run.size} × ${run.size} pixels` + (run.grid ? `, ${run.grid.join(" × ")} patches` : "");
    this.find(".run-name").append(facts);
    drawLegend(this.find(".legend canvas"));
    this.fillControls();
    this.listen();
    this.say();
  }

  get method() {
    return this.run.methods.find((method) => method.name === this.find(".method").value);
  }

  get view() {
    const value = (name) => this.find(`.${name}`).value;
    return {
      method: this.method.name,
      ...(this.method.layers ? { layer: value("layer"), head: value("head") } : {}),
      ...(this.method.target && value("target") ? { target: value("target") } : {}),
    };
  }

  set view(wanted) { // what does not exist here stays as it is: links are other people's
    for (const [name, value] of Object.entries(wanted)) {
      const select = this.find(`select.${CSS.escape(name)}`);
      if (select && [...select.options].some((option) => option.value === value)) select.value = value;
    }
    this.showControls();
  }

  fillControls() {
    const { methods, layers, heads, classes } = this.run;
    const fill = (name, pairs) => this.find(`.${name}`).replaceChildren(...pairs.map(([v, t]) => new Option(t, v)));
    const numbers = (count, word) => Array.from({ length: count }, (_, i) => [String(i + 1), `${word} ${i + 1} of ${count}`]);
    const title = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("-", " ");
    fill("method", methods.map(({ name, faithful }) => [name, title(name) + (faithful === false ? " (not faithful)" : "")]));
    fill("layer", [["mean", "Mean of all"], ...numbers(layers, "Layer")]);
    fill("head", [["mean", "Mean of all"], ...numbers(heads, "Head")]);
    fill("target", [["", "The predicted class"], ...classes.map((name) => [name, name])]);
    this.showControls();
  }

  showControls() {
    for (const name of ["layer", "head"]) this.find(`.${name}`).parentElement.hidden = !this.method.layers;
    this.find(".target").parentElement.hidden = !this.method.target;
    const { explains, faithful, patch } = this.method;
    const keys = "Patches. Arrow keys choose one to see what it attends to, Escape lets go.";
    this.find(".stage").setAttribute("aria-label", patch ? keys : "The picture and its map, which has no patches to choose.");
    const doubt = faithful === false ? " Not faithful: on this run's check its maps did not tell what the model goes by." : "";
    this.find(".explains").textContent = explains + doubt;
  }

  listen() {
    const stage = this.find(".stage");
    for (const name of ["method", "target", "layer", "head"]) {
      this.find(`.${name}`).addEventListener("change", () => {
        if (name === "method" && !this.method.patch) this.release(false);
        this.showControls();
        this.look();
      });
    }
    this.find(".strength").addEventListener("input", () => this.fade());
    stage.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" && !this.pinned) this.choose(this.under(event));
    });
    stage.addEventListener("pointerleave", () => this.pinned || this.choose(null));
    stage.addEventListener("click", (event) => {
      if (!this.choosable) return;
      const patch = this.under(event);
      if (this.pinned && String(patch) === String(this.chosen)) return this.release();
      this.pinned = patch !== null;
      this.choose(patch);
    });
    stage.addEventListener("keydown", (event) => this.key(event));
    this.fade();
  }

  under(event) {
    const box = this.find(".stage").getBoundingClientRect();
    const [rows, columns] = this.run.grid ?? [1, 1];
    const at = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
    return [at((event.clientY - box.top) / box.height, rows), at((event.clientX - box.left) / box.width, columns)];
  }

  key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Escape") this.release();
    if (!step || !this.choosable) return;
    event.preventDefault();
    const [rows, columns] = this.run.grid ?? [1, 1];
    const from = this.chosen ?? [Math.floor(rows / 2) - step[0], Math.floor(columns / 2) - step[1]];
    this.pinned = true;
    this.choose([(from[0] + step[0] + rows) % rows, (from[1] + step[1] + columns) % columns]);
  }

  release(look = true) {
    this.pinned = false;
    if (look) this.choose(null);
    else this.chosen = null;
  }

  get choosable() {
    return this.answer !== null && this.method.patch;
  }

  choose(patch) {
    if (!this.choosable || String(patch) === String(this.chosen)) return;
    this.chosen = patch;
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.look(), patch ? HOVER : 0);
  }

  // A new picture: `blob` as it was given, so that every run fits it from the original.
  async open(blob) {
    this.picture = blob;
    this.seen = null;
    this.answer = null;
    this.cache.clear();
    this.release(false);
    await this.look();
  }

  // The map that the choices ask for. What the model saw is asked again, not the upload: small, and the same pixels.
  async look() {
    if (!this.picture) return;
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    const patch = this.method.patch && this.chosen ? this.chosen.join(",") : null;
    const wanted = { run: this.run.name, ...this.view, patch };
    const key = JSON.stringify(wanted);
    this.element.setAttribute("aria-busy", "true");
    try {
      let answer = this.cache.get(key);
      if (!answer) {
        answer = await ask("heatmap", this.seen ?? this.picture, { ...wanted, seen: this.seen ? null : true }, asking.signal);
        if (!this.seen) {
          const picture = await image(answer.picture);
          if (asking.signal.aborted) return;
          this.seen = new Blob([bytes(answer.picture)], { type: "image/png" });
          drawPicture(this.find(".picture"), picture);
          this.find(".stage").classList.add("full");
        }
        this.cache.set(key, answer);
      }
      if (asking.signal.aborted) return;
      this.shown = answer;
      if (!patch) this.answer = answer;
      this.say();
      this.changed(this);
    } catch (problem) {
      if (problem.name !== "AbortError") this.failed(problem);
    } finally {
      if (asking === this.asking) this.element.removeAttribute("aria-busy"); // else a later question is under way
    }
  }

  get heat() {
    return this.shown?.map ? heats(this.shown.map) : null;
  }

  // The map on a scale that it may share with others.
  draw([low, high]) {
    if (!this.heat) return;
    drawHeat(this.find(".heat"), this.heat, this.run.size / this.run.patch_size, [low, high], this.shown.patch);
    this.find(".low").textContent = low.toFixed(1);
    this.find(".high").textContent = high.toFixed(1);
  }

  fade() {
    const strength = this.find(".strength").value / 100;
    this.find(".heat").style.opacity = strength;
    this.find(".picture").style.filter = `grayscale(${Math.min(1, 2 * strength)})`;
  }

  truth(label) {
    const line = this.find(".truth");
    const right = label === this.answer?.label;
    line.className = `truth ${label == null ? "" : right ? "right" : "wrong"}`;
    line.replaceChildren();
    if (label == null) return;
    const name = document.createElement("bdi");
    name.textContent = label;
    line.append(right ? "✓ right, it is " : "✗ wrong, it is ", name);
  }

  say() {
    const { answer, shown, heat } = this;
    this.find(".label bdi").textContent = answer?.label ?? "–";
    this.find(".sure").textContent = answer ? percent(answer.probability) : "";
    this.find(".classes").replaceChildren(...(answer?.top ?? []).map(({ label, probability }) => {
      const [line, fill, name, share] = ["li", "span", "bdi", "span"].map((tag) => document.createElement(tag));
      fill.className = "fill";
      fill.style.width = percent(probability).replace(" ", "");
      [name.textContent, share.textContent] = [label, percent(probability)];
      line.append(fill, name, share);
      return line;
    }));
    if (!heat) return;
    const most = peak(heat);
    const place = `row ${most.row + 1}, column ${most.column + 1}, with ${most.value.toFixed(1)} times an even share`;
    const who = shown.patch ? `The patch in row ${shown.patch[0] + 1}, column ${shown.patch[1] + 1}` : `The ${this.run.source}`;
    const attends = this.method.patch ? `${who} looks most at ${place}.` : `The map is highest at ${place}.`;
    this.find(".picture").setAttribute("aria-label", `The picture as the model sees it. ${attends}`);
    this.find(".patch").textContent = attends + (shown.patch || !this.method.patch ? "" : " Point at a patch to see what that one looks at.");
  }
}
