// An exchange on the page: the question with its pictures, the answer with its boxes, and what can be done with it.

import { drawnPicture, groupAttributes, light } from "./boxes.js";
import { element, icon } from "./dom.js";
import { parse, readable } from "./markup.js";
import { text, translate } from "./texts.js";

const ERRORS = { 0: "errorNetwork", 401: "errorKey", 413: "errorLarge", 429: "errorBusy", 503: "errorBusy" };

/** The key of the words for a failed request. */
export function errorText({ status, code }) {
  if (code === "context_length_exceeded") return "errorContext";
  return ERRORS[status] ?? (status < 500 ? "errorRefused" : "errorServer");
}

/**
 * An exchange's element and a function that shows how it stands now.
 * meant: the picture that the question is about (see conversation.js); actions: functions copy, again, edit.
 */
export function exchangeView(exchange, meant, actions) {
  const said = element("p", { class: "said" });
  const figure = element("figure");
  const note = element("p", { class: "note" });
  const buttons = element("div", { class: "actions" }, ...Object.entries(actions).map(actionButton));
  const answer = element("article", { class: "answer" }, said, figure, note, buttons);
  lightByPointing(answer);
  let drawn = 0;

  function update() {
    const finished = exchange.finish !== null || exchange.error !== null;
    const parts = parse(exchange.answer.trimStart(), finished);
    said.replaceChildren(...readable(parts).map(words));
    if (!finished && !parts.length) said.append(element("span", { class: "looking", "data-text": "looking" }));
    const shapes = parts.filter((part) => part.corners).length;
    if (meant && shapes !== drawn) figure.replaceChildren(drawnPicture(meant.picture, parts), ...caption(meant));
    drawn = shapes;
    note.replaceChildren(...notes(exchange, finished));
    answer.setAttribute("aria-busy", !finished);
    answer.classList.toggle("failed", exchange.error !== null);
    answer.classList.toggle("silent", exchange.answer === "");
    translate(answer);
  }

  update();
  return { node: element("section", { class: "exchange" }, question(exchange), answer), update };
}

function question({ text: asked, pictures }) {
  const shown = pictures.map(({ uri, name }) => element("li", {}, element("img", { src: uri, alt: name })));
  const list = pictures.length ? [element("ul", { class: "pictures" }, ...shown)] : [];
  return element("article", { class: "question" }, ...list, element("p", {}, asked));
}

function words(part) {
  if (part.text) return part.text;
  const attributes = { class: "phrase", role: "button", tabindex: "0", ...groupAttributes(part.group) };
  if (part.corners) return element("mark", { ...attributes, "data-text": "box", "data-value": part.group + 1 });
  return element("mark", attributes, part.phrase);
}

function caption({ number, count }) {
  return count > 1 ? [element("figcaption", { "data-text": "picture", "data-value": number })] : [];
}

function* notes({ answer, finish, error }, finished) {
  if (error) {
    yield element("span", { "data-text": errorText(error) });
    if (error.message) yield element("small", {}, error.message);
  } else if (finish === "stopped" || finish === "length") {
    yield element("span", { "data-text": finish });
  } else if (finished && !answer.trim()) {
    yield element("span", { "data-text": "nothing" });
  }
}

function actionButton([name, act]) {
  const button = element("button", { type: "button", class: `quiet ${name}` }, icon(name));
  const said = element("span", { "data-text": name });
  button.append(said);
  button.addEventListener("click", async () => {
    await act();
    if (name === "copy") said.textContent = text("copied");
  });
  return button;
}

/** A phrase or box under the pointer or focus lights its group; a tap, click, Enter or Space keeps it lit. */
function lightByPointing(answer) {
  let kept = null;
  const groupOf = (event) => event.target.closest?.("[data-group]")?.dataset.group ?? null;
  const point = (event) => light(answer, groupOf(event) ?? kept);
  const keep = (event) => {
    kept = groupOf(event) === kept ? null : groupOf(event);
    light(answer, kept);
  };
  answer.addEventListener("pointerover", (event) => event.pointerType === "mouse" && point(event));
  answer.addEventListener("pointerleave", () => light(answer, kept));
  answer.addEventListener("focusin", (event) => event.target.matches(":focus-visible") && point(event));
  answer.addEventListener("focusout", () => light(answer, kept));
  answer.addEventListener("click", keep);
  answer.addEventListener("keydown", (event) => {
    if (!event.target.matches(".phrase") || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    keep(event);
  });
}
