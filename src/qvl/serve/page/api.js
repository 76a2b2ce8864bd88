// The server's OpenAI-compatible API: the model's name, and an answer as it comes.

const KEY = "qvl-key";

/** A request that did not end well. status: HTTP's, 0 for a server that can't be reached or stopped midway. */
export class ServerError extends Error {
  constructor(status, message = "", code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const apiKey = () => sessionStorage.getItem(KEY);
export const keepApiKey = (value) => sessionStorage.setItem(KEY, value);

/** The id of the first model that the server has. ServerError as of `streamAnswer`. */
export async function modelName() {
  const response = await request("v1/models");
  const { data } = await response.json();
  return data[0]?.id ?? "";
}

/**
 * An answer in pieces: yields {text} for words and {finish} for the reason why it ended.
 * Throws ServerError, and AbortError when the signal says to stop.
 */
export async function* streamAnswer(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(500, chunk.error.message, chunk.error.code);
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) yield { text: choice.delta.content };
    if (choice?.finish_reason) yield { finish: choice.finish_reason };
  }
}

async function request(path, options = {}) {
  const key = apiKey();
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await reached(fetch(path, { ...options, headers }));
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ServerError(response.status, body.error?.message, body.error?.code);
}

/** The data of server-sent events. One event of this API is one line. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reached(reader.read());
    if (done) return;
    const lines = (waiting + value).split(/\r?\n/);
    waiting = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}

/** What the promise gives; a failing network is a ServerError like any other. */
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(0);
  }
}
