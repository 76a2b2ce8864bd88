// Visible text of the document in document order: words, and Chinese characters one by one, each with its rectangle
// {text, rect: [x, y, width, height], space: was there white space before it, angle: 90 for Latin lying in vertical
// text}; slanted: where on the page text is turned, from the top; reordered: where it is forced into another order
// than its own; unseen: how many words are covered or clipped, or in no window.
() => {
  const CJK = /[\u2e80-\u303f\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef]|[\ud840-\ud88f][\udc00-\udfff]/;
  const atoms = [];
  const REPLACED = new Set(["IMG", "VIDEO", "CANVAS", "PICTURE", "EMBED", "OBJECT", "IFRAME", "svg"]);
  const slanted = [];
  const reordered = [];
  const full = document.documentElement.scrollHeight;
  let unseen = 0;
  let space = true;

  const shownText = (style, text) => {
    if (style.textTransform.includes("uppercase")) return text.toUpperCase();
    if (style.textTransform.includes("lowercase")) return text.toLowerCase();
    return text;
  };

  // What many words of one element share: the block around it, and whether its text runs downwards.
  const known = new Map();
  const about = (element) => {
    if (!known.has(element)) {
      let block = element;
      while (block.parentElement && getComputedStyle(block).display.startsWith("inline")) block = block.parentElement;
      known.set(element, {block, down: getComputedStyle(element).writingMode !== "horizontal-tb"});
    }
    return known.get(element);
  };

  const seeThrough = (element) => {
    const style = getComputedStyle(element);
    const alpha = style.backgroundColor.match(/^rgba\(.*, ([\d.]+)\)$/);
    return alpha !== null && Number(alpha[1]) < 1 && style.backgroundImage === "none" && !REPLACED.has(element.tagName);
  };

  // Seen all over the rectangle: nothing opaque lies over it and no ancestor clips it away. Where columns break, the
  // browser answers with the block around an inline element instead of the element.
  const onTop = (element, rect) => {
    const {block, down} = about(element);
    const owns = (hit) => element.contains(hit) || (hit.contains(element) && block.contains(hit));
    const shown = (x, y) => {
      const hit = document.elementFromPoint(x, y);
      if (hit === null || owns(hit)) return hit !== null;
      const stack = document.elementsFromPoint(x, y);
      const own = stack.findIndex(owns);
      return own >= 0 && stack.slice(0, own).every(seeThrough);
    };
    const points = (start, length, inset) => {
      const steps = Math.max(1, Math.ceil((length - 2 * inset) / 12));
      return Array.from({length: steps + 1}, (_, i) => start + inset + ((length - 2 * inset) * i) / steps);
    };
    const inset = (length, across) => (across ? length / 4 : Math.min(1, length / 4));
    const rows = points(rect.top, rect.height, inset(rect.height, !down));
    return points(rect.left, rect.width, inset(rect.width, down)).every((x) => rows.every((y) => shown(x, y)));
  };

  const turnedItself = (element) => {
    const {writingMode, textOrientation, rotate, transform} = getComputedStyle(element);
    if (writingMode.startsWith("sideways")) return true;
    if (writingMode !== "horizontal-tb" && textOrientation !== "mixed") return true;
    if (rotate !== "none" && rotate !== "0deg") return true;
    if (transform === "none") return false;
    const matrix = new DOMMatrixReadOnly(transform);
    return Math.abs(matrix.b) > 1e-3 || Math.abs(matrix.c) > 1e-3 || matrix.a < 0 || matrix.d < 0;
  };
  const turns = new Map([[null, false]]);
  const turned = (element) => {
    if (!turns.has(element)) turns.set(element, turnedItself(element) || turned(element.parentElement));
    return turns.get(element);
  };

  // Whether the text runs in an order that its characters don't have: by style, or by a character somewhere in its
  // block.
  const styles = new Map([[null, false]]);
  const styled = (element) => {
    if (!styles.has(element)) {
      styles.set(element, getComputedStyle(element).unicodeBidi.endsWith("override") || styled(element.parentElement));
    }
    return styles.get(element);
  };
  const marks = new Map();
  const forced = (element) => {
    const {block} = about(element);
    if (!marks.has(block)) marks.set(block, /[\u202d\u202e]/.test(block.textContent));
    return marks.get(block) || styled(element);
  };

  const rectOf = (node, start, end) => {
    const range = document.createRange();
    range.setStart(node, start);
    range.setEnd(node, end);
    return Array.from(range.getClientRects()).filter((r) => r.width > 0 && r.height > 0);
  };

  // The rectangle of a font's full height, no higher than its line: what is beyond belongs to the lines around it. A
  // line much lower than its letters (sub and sup often have `line-height: 0`) stands in a higher one, and says nothing.
  const within = (rect, style) => {
    const height = parseFloat(style.lineHeight);
    if (style.writingMode !== "horizontal-tb" || !(height < rect.height) || height < rect.height / 2) return rect;
    return new DOMRect(rect.x, rect.y + (rect.height - height) / 2, rect.width, height);
  };

  const emit = (element, style, text, whole, spaceBefore) => {
    const rect = within(whole, style);
    if (rect.bottom <= 0 || rect.top >= innerHeight) {  // in another window, or in none: counted in the last
      const nowhere = rect.bottom + scrollY <= 0 || rect.top + scrollY >= full;
      if (nowhere && scrollY + innerHeight >= full - 1) unseen += 1;
      return;
    }
    if (!onTop(element, rect)) {
      unseen += 1;
      return;
    }
    if (forced(element)) reordered.push(rect.y + rect.height / 2);
    if (turned(element)) slanted.push(rect.y + rect.height / 2);
    const angle = style.writingMode === "horizontal-tb" || CJK.test(text) ? 0 : 90;
    const shown = shownText(style, text);
    atoms.push({text: shown, rect: [rect.x, rect.y, rect.width, rect.height], space: spaceBefore, angle});
  };

  // A word that breaks across lines, or holds Chinese: character by character, joined again along a line.
  const emitCharacters = (element, style, node, start, word, spaceBefore) => {
    const down = style.writingMode !== "horizontal-tb";
    let open = null;
    const close = () => {
      if (open !== null) emit(element, style, open.text, open.rect, open.space);
      open = null;
    };
    let offset = start;
    for (const character of word) {
      const rect = rectOf(node, offset, offset + character.length)[0];
      offset += character.length;
      if (rect === undefined) continue;
      const alone = CJK.test(character);
      const away = down ? Math.abs(rect.left - open?.rect.left) > rect.width / 2
        : Math.abs(rect.top - open?.rect.top) > rect.height / 2;
      if (open !== null && (alone || away)) close();
      if (open === null) {
        open = {text: character, rect, space: spaceBefore};
        spaceBefore = false;
      } else {
        const left = Math.min(open.rect.left, rect.left), top = Math.min(open.rect.top, rect.top);
        const right = Math.max(open.rect.right, rect.right), bottom = Math.max(open.rect.bottom, rect.bottom);
        open.rect = new DOMRect(left, top, right - left, bottom - top);
        open.text += character;
      }
      if (alone) close();
    }
    close();
  };

  const walker = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const element = node.parentElement;
    const text = node.data;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true}) || !text.trim()) {
      space = space || /\s/.test(text);
      continue;
    }
    const style = getComputedStyle(element);
    let last = 0;
    for (const match of text.matchAll(/\S+/g)) {
      const start = match.index;
      const rects = rectOf(node, start, start + match[0].length);
      const spaceBefore = space || start > last;
      space = false;
      last = start + match[0].length;
      if (!rects.length) continue;
      let word = match[0];
      if (style.textTransform.includes("capitalize")) word = word.replace(/\p{L}/u, (c) => c.toUpperCase());
      if (rects.length > 1 || CJK.test(word)) emitCharacters(element, style, node, start, word, spaceBefore);
      else emit(element, style, word, rects[0], spaceBefore);
    }
    space = space || last < text.length;
  }
  return {atoms, slanted, reordered, unseen};
}
