// The page: pictures come in by drop, paste, file, webcam, sample or link, and go to every run's panel.

import { getBlob, getJSON, useToken } from "./ask.js";
import { scale } from "./draw.js";
import { Panel } from "./panel.js";

const MOST_IN_LINK = 24000; // bytes of a picture in a link: longer addresses get lost on their way

const at = (id) => document.getElementById(id);
const state = { panels: [], truth: null, sample: null, picture: null, turn: 0 }; // turn: counts what was asked to be opened

function status(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", wrong);
}

const failed = (problem) => status(problem.message, true);

// Answers

function changed() {
  const answered = state.panels.filter((panel) => panel.answer);
  const shown = state.panels.filter((panel) => panel.heat);
  const shared = shown.length ? scale(shown.map((panel) => panel.heat)) : null;
  for (const panel of shown) panel.draw(shared);
  for (const panel of answered) panel.truth(state.truth);
  if (answered.length < state.panels.length) return;
  const words = answered.map(({ answer }) => `${answer.label}, ${(100 * answer.probability).toFixed(1)} %`);
  const agree = new Set(answered.map(({ answer }) => answer.label)).size === 1;
  status(words.length === 1 ? words[0] : agree ? `They agree: ${words.join("; ")}` : `They disagree: ${words.join(" against ")}`);
  at("copy-link").disabled = at("copy-json").disabled = false;
}

async function open(blob, { truth = null, sample = null } = {}) {
  Object.assign(state, { truth, sample, picture: blob, turn: state.turn + 1 });
  press();
  at("copy-link").disabled = at("copy-json").disabled = true;
  status("Looking …");
  await Promise.all(state.panels.map((panel) => panel.open(blob)));
}

async function openFile(file) {
  if (file) await open(file);
}

// Ways in

function takeDrops() {
  const over = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    const [file] = event.dataTransfer.files;
    file ? openFile(file) : status("What was dropped is no file: save the picture first, then drop that.", true);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) openFile(file);
    else if (event.target.tagName !== "INPUT") status("There is no picture in the clipboard.", true);
  });
  at("pick").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", (event) => {
    openFile(event.target.files[0]);
    event.target.value = "";
  });
}

function takeWebcam() {
  const dialog = at("camera");
  const video = dialog.querySelector("video");
  const stop = () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  };
  at("webcam").addEventListener("click", async () => {
    at("webcam").disabled = true; // until the browser has answered: a second press would leave the first stream on
    try {
      if (!navigator.mediaDevices) throw new Error("The browser gives the webcam to pages on this machine or with HTTPS alone.");
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, facingMode: "environment" } });
      await video.play();
    } catch (problem) {
      stop();
      status(problem.name === "NotAllowedError" ? "The webcam was not allowed." : problem.name === "NotFoundError" ? "There is no webcam." : problem.message, true);
      return;
    } finally {
      at("webcam").disabled = false;
      at("webcam").focus();
    }
    dialog.showModal();
  });
  dialog.querySelector(".cancel").addEventListener("click", () => dialog.close());
  dialog.querySelector(".take").addEventListener("click", () => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    dialog.close();
    canvas.convertToBlob({ type: "image/png" }).then(openFile, failed);
  });
  dialog.addEventListener("close", stop);
}

async function openSample(id) {
  const turn = ++state.turn;
  try {
    const { samples } = await state.samples;
    const sample = samples.find((each) => each.id === id);
    if (!sample) throw new Error(`There is no sample ${id}.`);
    const blob = await getBlob(`/v1/samples/${id}.png`);
    if (turn === state.turn) await open(blob, { truth: sample.label, sample: id }); // else another was opened meanwhile
  } catch (problem) {
    if (turn === state.turn) failed(problem);
  }
}

async function showSamples() {
  const { samples, note } = await state.samples;
  at("samples-title").hidden = at("samples").hidden = !samples.length;
  at("samples-note").hidden = !note;
  at("samples-note").textContent = note ?? "";
  const buttons = samples.map(({ id, label }) => {
    const button = document.createElement("button");
    const picture = new Image();
    button.type = "button";
    button.dataset.id = id;
    button.title = picture.alt = label;
    button.append(picture);
    button.addEventListener("click", () => openSample(id));
    return button;
  });
  at("samples").replaceChildren(...buttons);
  press();
  for (const { id } of samples) {
    buttons[id].firstChild.src = URL.createObjectURL(await getBlob(`/v1/samples/${id}.png`));
  }
}

function press() {
  for (const button of at("samples").children) {
    button.setAttribute("aria-pressed", String(button.dataset.id === String(state.sample)));
  }
}

// Ways out

async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard without HTTPS: the old way still works
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) return status("The browser does not let the page copy.", true);
  }
  status(said);
}

async function link() {
  const parts = new URLSearchParams();
  if (state.sample !== null) {
    parts.set("sample", state.sample);
  } else {
    const small = [state.picture, state.panels[0].seen].find((blob) => blob && blob.size <= MOST_IN_LINK);
    if (!small) return null;
    const bytes = new Uint8Array(await small.arrayBuffer());
    parts.set("picture", btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")));
  }
  state.panels.forEach(({ view }, i) => {
    for (const [name, value] of Object.entries(view)) if (value !== "mean") parts.append(`${name}${i || ""}`, value);
  });
  return `${location.origin}/#${parts}`;
}

async function followLink() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (parts.has("token")) {
    useToken(parts.get("token"));
    history.replaceState(null, "", location.pathname);
    return;
  }
  if (!state.panels.length) return; // they follow the link once they are there
  if (!parts.has("sample") && !parts.has("picture")) return; // another kind of link, as the one that skips to the answer
  state.panels.forEach((panel, i) => {
    panel.view = Object.fromEntries(["method", "layer", "head", "target"].map((name) => [name, parts.get(`${name}${i || ""}`) ?? (name === "target" ? "" : "mean")]));
  });
  if (parts.has("sample")) return openSample(Number(parts.get("sample")));
  try {
    const bytes = Uint8Array.from(atob(parts.get("picture")), (letter) => letter.charCodeAt(0));
    await open(new Blob([bytes]));
  } catch {
    status("The picture in the link is damaged.", true);
  }
}

function giveAnswers() {
  at("copy-link").addEventListener("click", async () => {
    const address = await link();
    if (!address) return status("This picture is too large for a link: copy the JSON instead.", true);
    await copy(address, "The link is copied: it holds the picture and the choices.");
  });
  at("copy-json").addEventListener("click", () => {
    const runs = state.panels.map(({ shown }) => ({ ...shown, picture: undefined }));
    copy(JSON.stringify({ runs, true: state.truth ?? undefined }, null, 1), "The JSON of the answer is copied.");
  });
}

async function begin() {
  takeDrops();
  takeWebcam();
  giveAnswers();
  addEventListener("hashchange", followLink);
  await followLink(); // to a token: it is needed first
  const { runs } = await getJSON("/v1/model");
  const names = runs[0].classes;
  at("about").title = names.slice(0, 200).join(", ");
  at("about").textContent = `${names.length} classes: ${names.slice(0, 12).join(", ")}${names.length > 12 ? " …" : ""}`;
  state.panels = runs.map((run) => new Panel(run, { changed, failed }));
  at("panels").replaceChildren(...state.panels.map((panel) => panel.element));
  state.samples = getJSON("/v1/samples", Infinity);
  showSamples().catch(failed);
  await followLink();
}

begin().catch(failed);
