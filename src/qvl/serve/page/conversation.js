// The conversation as data. An exchange is {text, pictures, answer, finish, error}: a question with its pictures, what
// has come of the answer, why it ended ("stop", "length", "stopped"; null before) and what went wrong (or null).

const NAMED_PICTURE = /(?:\bpicture |图 ?)(\d+)/i;

/** A question that nobody has answered yet. */
export function newExchange(text, pictures) {
  return { text, pictures, answer: "", finish: null, error: null };
}

/** Whether an exchange is part of the history; one that failed or that said nothing is not. */
export function isAnswered(exchange) {
  return exchange.answer !== "" && !exchange.error;
}

/** The messages that ask the last of the exchanges, in OpenAI's form; pictures stand before their question. */
export function messages(exchanges) {
  return exchanges.flatMap((exchange, i) => {
    const question = { role: "user", content: content(exchange) };
    return i === exchanges.length - 1 ? [question] : [question, { role: "assistant", content: exchange.answer }];
  });
}

function content({ text, pictures }) {
  if (!pictures.length) return text;
  return [...pictures.map(({ uri }) => ({ type: "image_url", image_url: { url: uri } })), { type: "text", text }];
}

/** The picture that the last question is about, with its number: the one it names ("picture 2", "图2"), else the newest. */
export function pictureMeant(exchanges) {
  const pictures = exchanges.flatMap((exchange) => exchange.pictures);
  if (!pictures.length) return null;
  const named = Number(NAMED_PICTURE.exec(exchanges.at(-1).text)?.[1]);
  const number = named >= 1 && named <= pictures.length ? named : pictures.length;
  return { picture: pictures[number - 1], number, count: pictures.length };
}
