// A webcam button. `give` is called with a picture, square and at most 512 pixels a side, as the data URL of a PNG,
// and with "" once the reader takes it back. Used by the lessons as a widget, and in the pages that stand alone.
// Returns `stop`, which turns the webcam off, and `forget`, for when another picture has taken the place of its own.

const MOST = 512;

export function camera(place, give) {
  const make = (tag, words, hidden) => {
    const element = document.createElement(tag);
    element.textContent = words;
    element.hidden = hidden;
    if (tag === "button") {
      element.type = "button";
      element.style.cssText = "font:inherit;padding:.35em .9em;margin:0 .4em 0 0;border:1px solid #8886;border-radius:6px;background:#8881;color:inherit;cursor:pointer";
    }
    place.append(element);
    return element;
  };
  const video = make("video", "", true);
  const open = make("button", "Webcam", false);
  const take = make("button", "Take the picture", true);
  const off = make("button", "Turn it off", true);
  const back = make("button", "Without it again", true);
  const said = make("span", "", false);
  said.setAttribute("role", "status");
  video.muted = video.playsInline = true;
  video.setAttribute("aria-label", "What the webcam sees");
  video.style.cssText = "display:block;width:16rem;max-width:100%;aspect-ratio:1;object-fit:cover;transform:scaleX(-1);border-radius:6px;margin:0 0 .4em";

  let taken = false;
  const show = (looking) => {
    video.style.display = looking ? "block" : "none";
    [take.hidden, off.hidden] = [!looking, !looking];
    [open.hidden, back.hidden] = [looking, looking || !taken];
  };
  const stop = () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  };
  open.addEventListener("click", async () => {
    said.textContent = "";
    open.disabled = true; // until the browser has answered: a second press would leave the first stream on
    try {
      if (!navigator.mediaDevices) throw new Error("The browser gives the webcam to pages on this machine or with HTTPS alone.");
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
      await video.play();
      show(true);
    } catch (problem) {
      stop();
      const words = { NotAllowedError: "The webcam was not allowed.", NotFoundError: "There is no webcam." };
      said.textContent = words[problem.name] ?? problem.message;
    } finally {
      open.disabled = false;
      (open.hidden ? take : open).focus();
    }
  });
  take.addEventListener("click", () => {
    const side = Math.min(video.videoWidth, video.videoHeight);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = Math.min(side, MOST);
    const [left, top] = [(video.videoWidth - side) / 2, (video.videoHeight - side) / 2];
    canvas.getContext("2d").drawImage(video, left, top, side, side, 0, 0, canvas.width, canvas.height);
    stop();
    taken = true;
    show(false);
    open.focus();
    give(canvas.toDataURL("image/png"));
  });
  off.addEventListener("click", () => {
    stop();
    show(false);
    open.focus();
  });
  back.addEventListener("click", () => {
    taken = false;
    show(false);
    open.focus();
    give("");
  });
  const forget = () => {
    taken = false;
    back.hidden = true;
  };
  show(false);
  return { stop, forget };
}
