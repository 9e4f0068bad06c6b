// Asking the server: the token, refusals and patience. Every answer is JSON or a Blob; every failure an Error to show.

const PATIENCE = 3; // times that "busy, ask again" is heeded

let token = sessionStorage.getItem("vitreous-token") ?? "";
let tried = token !== "";

function keepToken(value) {
  tried = value !== "";
  token = value.replace(/[^ -~]/g, "").trim(); // what no header can carry is in no token
  sessionStorage.setItem("vitreous-token", token);
}

// A token that came another way than by the dialog, which is then no longer needed.
export function useToken(value) {
  const dialog = document.getElementById("locked");
  keepToken(value);
  dialog.querySelector("form").reset(); // what was begun there is not the token
  dialog.close();
}

function askForToken() {
  const dialog = document.getElementById("locked");
  if (!dialog.open) {
    dialog.querySelector("form").reset();
    dialog.querySelector(".wrong").hidden = !tried;
    dialog.showModal();
  }
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const { value } = dialog.querySelector("input");
      if (value) keepToken(value); // else the dialog was left with Escape, or closed by a link with the token
      resolve();
    }, { once: true });
  });
}

async function answerTo(path, options = {}, patience = PATIENCE) {
  for (let tries = 1; ; tries++) {
    const sent = token;
    let response;
    try {
      response = await fetch(path, { ...options, headers: sent ? { Authorization: `Bearer ${sent}` } : {} });
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw new Error("The server does not answer. Is it still running?");
    }
    if (response.ok) return response;
    const { error } = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
    if (response.status === 401) {
      if (sent === token) await askForToken(); // else another question has been told the token meanwhile
    } else if (response.status === 503 && tries < patience) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    } else {
      throw new Error(error[0].toUpperCase() + error.slice(1) + ".");
    }
  }
}

export const getJSON = async (path, patience) => (await answerTo(path, {}, patience)).json();
export const getBlob = async (path) => (await answerTo(path)).blob();

// One picture and what is wanted of it: parameters that are null or undefined are left out.
export async function ask(route, picture, parameters, signal) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value != null));
  return (await answerTo(`/v1/${route}?${query}`, { method: "POST", body: picture, signal })).json();
}
