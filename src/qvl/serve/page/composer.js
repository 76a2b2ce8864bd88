// Where the next question is written: its words, and its pictures by drop, paste or choice.

import { element, icon } from "./dom.js";
import { readPicture } from "./pictures.js";
import { text, translate } from "./texts.js";

const form = document.getElementById("composer");
const question = document.getElementById("question");
const tray = document.getElementById("tray");
const files = document.getElementById("files");
const drop = document.getElementById("drop");
const line = document.getElementById("notice");
let waiting = []; // pictures for the next question

/** Call `ask(question, pictures)` for each question that is sent; it says whether it took it. */
export function watchComposer(ask) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = question.value.trim();
    if (asked && ask(asked, waiting)) fill("", []);
  });
  question.addEventListener("input", fit);
  question.addEventListener("keydown", (event) => {
    const composing = event.isComposing || event.keyCode === 229; // Enter ends a composition; 229 is Safari's sign of it
    if (event.key !== "Enter" || event.shiftKey || composing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  document.getElementById("choose").addEventListener("click", () => files.click());
  files.addEventListener("change", async () => {
    await take([...files.files]);
    files.value = "";
  });
  addEventListener("paste", pasted);
  watchDrops();
}

/** Put a question back to be changed, before what is there already. */
export function putBack(asked, pictures) {
  fill(asked, [...pictures, ...waiting]);
  question.focus();
}

/** A line above the question; empty words take it away. */
export function notice(words) {
  line.textContent = words;
  line.hidden = !words;
}

function fill(asked, pictures) {
  notice("");
  question.value = asked;
  waiting = pictures;
  fit();
  showTray();
}

/** The question's field grows with its lines. */
function fit() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

function showTray() {
  tray.replaceChildren(...waiting.map(thumbnail));
  translate(tray);
}

function thumbnail(picture) {
  const button = element("button", { type: "button", "data-label": "removePicture" }, icon("remove"));
  button.addEventListener("click", () => {
    waiting = waiting.filter((other) => other !== picture);
    showTray();
    question.focus();
  });
  return element("li", {}, element("img", { src: picture.uri, alt: picture.name }), button);
}

async function take(chosen) {
  notice("");
  for (const file of chosen) {
    try {
      const picture = await readPicture(file);
      waiting = [...waiting, picture]; // as it is now: others may have come meanwhile
    } catch {
      notice(text("unreadable", file.name));
    }
  }
  showTray();
  question.focus();
}

/** Files are taken; where text comes along, as from a spreadsheet, the text is meant. */
function pasted(event) {
  const { files: held, types } = event.clipboardData;
  if (!held.length || types.includes("text/plain")) return;
  event.preventDefault();
  take([...held]);
}

function watchDrops() {
  const holdsFiles = (event) => event.dataTransfer.types.includes("Files");
  const goesToText = (event) => event.target === question && !holdsFiles(event);
  addEventListener("dragenter", (event) => (drop.hidden = !holdsFiles(event)));
  drop.addEventListener("dragleave", () => (drop.hidden = true));
  addEventListener("dragover", (event) => goesToText(event) || event.preventDefault());
  addEventListener("drop", (event) => {
    if (goesToText(event)) return;
    event.preventDefault(); // else the browser would leave the page for what was dropped
    drop.hidden = true;
    if (holdsFiles(event)) take([...event.dataTransfer.files]);
    else notice(text("onlyFiles"));
  });
}
