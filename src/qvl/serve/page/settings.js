// The two settings of an answer, remembered by the browser.

const KEPT = "qvl-settings";
const temperature = document.getElementById("temperature");
const maxTokens = document.getElementById("max-tokens");
const shown = document.querySelector("output[for=temperature]");

/** What a request says besides its messages; the length only when the user gave one. */
export function settings() {
  const length = maxTokens.valueAsNumber;
  return { temperature: temperature.valueAsNumber, ...(length >= 1 && { max_tokens: Math.floor(length) }) };
}

/** Begin with what was remembered, and remember what changes. */
export function watchSettings() {
  const kept = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
  temperature.value = kept.temperature ?? 0;
  maxTokens.value = kept.max_tokens ?? "";
  const changed = () => {
    shown.textContent = temperature.value;
    localStorage.setItem(KEPT, JSON.stringify(settings()));
  };
  temperature.addEventListener("input", changed);
  maxTokens.addEventListener("input", changed);
  changed();
}
