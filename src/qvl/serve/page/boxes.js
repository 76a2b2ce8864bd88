// Boxes and quads over a picture, and the light that a phrase and its boxes share.

import { element, svgElement } from "./dom.js";

const GRID = 1000;
const COLOURS = 8; // style.css has as many
const NEAR_TOP = 90; // of GRID: a label would not fit above
const NEAR_RIGHT = 600;

/** What an element of a group wears. */
export function groupAttributes(group) {
  return { "data-group": group, "data-colour": group % COLOURS };
}

/** A picture under the shapes among an answer's parts (see markup.js); each group's first shape carries its label. */
export function drawnPicture(picture, parts) {
  const shapes = parts.filter((part) => part.corners);
  const image = element("img", { src: picture.uri, alt: picture.name });
  const overlay = svgElement("svg", { viewBox: `0 0 ${GRID} ${GRID}`, preserveAspectRatio: "none" });
  overlay.append(...shapes.toSorted((a, b) => area(b) - area(a)).map(outline)); // small ones are reached on top
  const first = shapes.filter((shape, i) => shapes.findIndex((other) => other.group === shape.group) === i);
  const frame = element("div", { class: "frame" }, image, overlay, ...first.map(label));
  frame.style.setProperty("--ratio", picture.width / picture.height);
  return frame;
}

/** Shapes and words of one group (null: of all) stand out under root. */
export function light(root, group) {
  root.classList.toggle("lit", group !== null);
  for (const node of root.querySelectorAll("[data-group]")) node.classList.toggle("on", node.dataset.group === group);
}

function outline(shape) {
  const points = shape.corners.map(([x, y]) => `${x + 0.5},${y + 0.5}`).join(" "); // centres of the grid's cells
  const under = svgElement("polygon", { points, class: "under" });
  return svgElement("g", groupAttributes(shape.group), under, svgElement("polygon", { points, class: "line" }));
}

function label(shape) {
  const [xs, ys] = [0, 1].map((axis) => shape.corners.map((corner) => corner[axis]));
  const [left, right, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys)];
  const tag = element("span", { class: "label", ...groupAttributes(shape.group) }, shape.phrase || `${shape.group + 1}`);
  const [side, place] = left > NEAR_RIGHT ? ["right", GRID - right] : ["left", left];
  tag.style[side] = percent(place);
  tag.style.maxWidth = percent(GRID - place);
  tag.style.top = percent(top);
  tag.classList.toggle("inside", top < NEAR_TOP);
  return tag;
}

const percent = (coordinate) => `${(100 * coordinate) / GRID}%`;

function area({ corners }) {
  const doubled = corners.reduce((sum, [x, y], i) => {
    const [nextX, nextY] = corners[(i + 1) % corners.length];
    return sum + x * nextY - nextX * y;
  }, 0);
  return Math.abs(doubled);
}
