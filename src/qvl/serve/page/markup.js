// What the model says, as parts that can be shown: the published markup, complete or still arriving.
// Coordinates are integers in [0, 1000), a fraction of the picture's width or height times 1000.

const TAGS = ["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"];
const ANY_TAG = /<\/?(?:ref|box|quad)>/g;
const NUMBER = "\\s*(?:\\d{1,3})\\s*";
const POINT = `\\(${NUMBER},${NUMBER}\\)`;
const MARKUP = new RegExp(
  `<ref>(?<ref>.*?)</ref>|<box>(?<box>${POINT},${POINT})</box>|<quad>(?<quad>${Array(4).fill(POINT).join()})</quad>`,
  "gs",
);
const OPEN_SHAPE = /<(?:box|quad)>[\s\d(),]*$/;

/**
 * The parts of an answer, in order:
 *   {text}                      plain words,
 *   {phrase, group}             words that boxes belong to; group counts the phrases of an answer from 0,
 *   {corners: [[x, y]...], group, phrase}  a box or quad, four corners clockwise from the top left.
 * A shape belongs to the phrase before it, whatever stands between; one without any is a group of its own and its
 * phrase is "". Tags are never part of a text: in a finished answer those that don't close are left out, in one that
 * still arrives what may become a tag or a shape is held back.
 */
export function parse(answer, finished = true) {
  const parts = [];
  let phrase = "";
  let groups = 0;
  let place = 0;
  for (const match of answer.matchAll(MARKUP)) {
    const { ref, box, quad } = match.groups;
    const corners = ref === undefined ? cornersOf(box ?? quad) : null;
    if (ref === undefined && !corners) continue; // an inverted box: its numbers stay words
    addText(parts, answer.slice(place, match.index));
    if (ref !== undefined) {
      phrase = ref.replace(ANY_TAG, "");
      parts.push({ phrase, group: groups++ });
    } else {
      if (!phrase) groups++;
      parts.push({ corners, group: groups - 1, phrase });
    }
    place = match.index + match[0].length;
  }
  const rest = answer.slice(place);
  if (finished) addText(parts, rest);
  else addArriving(parts, withoutTagStart(rest).replace(OPEN_SHAPE, ""), groups);
  return parts;
}

/**
 * What stands in the words of an answer: a shape only where no phrase announces it, and a space where nothing else
 * parts two phrases.
 */
export function readable(parts) {
  return parts.flatMap((part, i) => {
    if (part.corners && part.phrase) return [];
    return parts[i - 1]?.corners && !part.text ? [{ text: " " }, part] : [part];
  });
}

/** The words of an answer, without its shapes. */
export function plainText(answer) {
  return readable(parse(answer)).map((part) => part.text ?? part.phrase).join("").trim();
}

function addText(parts, text) {
  const words = text.replace(ANY_TAG, "");
  if (words) parts.push({ text: words });
}

/** Words after the last complete markup; those after an opened <ref> are a phrase already. */
function addArriving(parts, text, group) {
  const open = text.lastIndexOf("<ref>");
  if (open < 0) return addText(parts, text);
  addText(parts, text.slice(0, open));
  const phrase = text.slice(open).replace(ANY_TAG, "");
  if (phrase) parts.push({ phrase, group });
}

/** Text without a last piece that may yet become a tag. */
function withoutTagStart(text) {
  const start = text.lastIndexOf("<");
  const mayBe = start >= 0 && TAGS.some((tag) => tag !== text.slice(start) && tag.startsWith(text.slice(start)));
  return mayBe ? text.slice(0, start) : text;
}

function cornersOf(inner) {
  const n = inner.match(/\d+/g).map(Number);
  if (n.length === 8) return [[n[0], n[1]], [n[2], n[3]], [n[4], n[5]], [n[6], n[7]]];
  const [x1, y1, x2, y2] = n;
  return x1 <= x2 && y1 <= y2 ? [[x1, y1], [x2, y1], [x2, y2], [x1, y2]] : null;
}
