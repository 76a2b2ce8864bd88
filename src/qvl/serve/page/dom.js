// Elements from data. Text is always set as text, never read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (those that are null or false left out) and children (strings become text). */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same in SVG's namespace. */
export function svgElement(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** One of the page's symbols. */
export function icon(name) {
  return svgElement("svg", { "aria-hidden": "true" }, svgElement("use", { href: `#icon-${name}` }));
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}
