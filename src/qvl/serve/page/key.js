// The key of a server that asks for one.

import { apiKey, keepApiKey } from "./api.js";
import { text } from "./texts.js";

const dialog = document.getElementById("key");
const field = document.getElementById("key-value");

document.getElementById("key-cancel").addEventListener("click", () => dialog.close());

/** Ask for the key and keep it; false when the user gave none. */
export async function askForKey() {
  document.getElementById("key-why").textContent = text(apiKey() ? "keyRefused" : "keyWhy");
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "use") return false;
  keepApiKey(field.value);
  return true;
}
