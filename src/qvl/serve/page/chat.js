// The page: what the user does, and what then happens to the conversation.

import { modelName, streamAnswer } from "./api.js";
import { notice, putBack, watchComposer } from "./composer.js";
import { isAnswered, messages, newExchange, pictureMeant } from "./conversation.js";
import { element } from "./dom.js";
import { EXAMPLES, address } from "./examples.js";
import { askForKey } from "./key.js";
import { plainText } from "./markup.js";
import { readPicture } from "./pictures.js";
import { follow, goToEnd } from "./scrolling.js";
import { settings, watchSettings } from "./settings.js";
import { currentLanguage, switchLanguage, text, translate } from "./texts.js";
import { errorText, exchangeView } from "./view.js";

const conversation = document.getElementById("conversation");
const newChat = document.getElementById("new");
const language = document.getElementById("language");
let exchanges = [];
let running = null; // the AbortController of the answer that is coming
let model = "";

/** Ask, unless an answer is coming. A question without an answer gives way to this one and leaves it its pictures. */
function ask(question, pictures) {
  if (running) return false;
  const left = exchanges.length && !isAnswered(exchanges.at(-1)) ? takeLast().pictures : [];
  begin(newExchange(question, [...left, ...pictures]));
  return true;
}

function again() {
  if (running) return;
  const { text: question, pictures } = takeLast();
  begin(newExchange(question, pictures));
}

function edit() {
  const { text: question, pictures } = takeLast();
  putBack(question, pictures);
  showState();
}

function takeLast() {
  conversation.lastChild.remove();
  return exchanges.pop();
}

function begin(exchange) {
  exchanges.push(exchange);
  const copy = () => navigator.clipboard.writeText(plainText(exchange.answer));
  const actions = { ...(navigator.clipboard && { copy }), again, edit }; // no clipboard over http from another machine
  const { node, update } = exchangeView(exchange, pictureMeant(exchanges), actions);
  conversation.append(node);
  goToEnd();
  answer(exchange, update);
}

async function answer(exchange, update) {
  const controller = (running = new AbortController());
  showState();
  await receive(exchange, update, controller.signal);
  if (running !== controller) return; // a new chat has begun
  running = null;
  update();
  showState();
  const said = exchange.error ? text(errorText(exchange.error)) : plainText(exchange.answer);
  document.getElementById("spoken").textContent = said;
  if (exchange.error?.status === 401 && (await askForKey())) {
    again();
    showModel();
  }
}

/** What comes of the answer goes into the exchange, its end or its error too. */
async function receive(exchange, update, signal) {
  try {
    const pieces = streamAnswer({ model, messages: messages(exchanges), ...settings() }, signal);
    for await (const { text: piece, finish } of pieces) {
      exchange.answer += piece ?? "";
      exchange.finish = finish ?? exchange.finish;
      update();
    }
    if (exchange.finish === null) exchange.error = { status: 0 };
  } catch (error) {
    if (error.name === "AbortError") exchange.finish = "stopped";
    else exchange.error = error;
  }
}

function startNewChat() {
  running?.abort();
  running = null;
  exchanges = [];
  conversation.replaceChildren();
  showState();
  document.getElementById("question").focus();
}

function showState() {
  document.getElementById("welcome").hidden = exchanges.length > 0;
  newChat.disabled = !exchanges.length;
  document.getElementById("send").hidden = running !== null;
  document.getElementById("stop").hidden = running === null;
  conversation.classList.toggle("busy", running !== null);
  conversation.classList.toggle("several", exchanges.flatMap((exchange) => exchange.pictures).length > 1);
}

function showExamples() {
  document.getElementById("examples").replaceChildren(...EXAMPLES.map(exampleCard));
}

function exampleCard({ pictures, ...question }) {
  const asked = question[currentLanguage()];
  const shown = pictures.map((picture) => element("img", { src: address(picture), alt: "" }));
  const button = element("button", { type: "button" }, element("span", {}, ...shown), element("span", {}, asked));
  const read = async (picture) => readPicture(await (await fetch(address(picture))).blob());
  button.addEventListener("click", async () => ask(asked, await Promise.all(pictures.map(read))));
  return element("li", {}, button);
}

function showLanguage() {
  document.documentElement.lang = currentLanguage();
  translate(document);
  language.textContent = text("otherLanguage");
  showExamples();
}

async function showModel() {
  try {
    model = await modelName();
    document.getElementById("model").textContent = model;
  } catch (error) {
    if (error.status !== 401) notice(text(errorText(error)));
    else if (!running && (await askForKey())) showModel();
  }
}

document.getElementById("stop").addEventListener("click", () => running?.abort());
newChat.addEventListener("click", startNewChat);
language.addEventListener("click", () => {
  switchLanguage();
  showLanguage();
});
watchComposer(ask);
watchSettings();
follow(conversation);
showLanguage();
showState();
showModel();
