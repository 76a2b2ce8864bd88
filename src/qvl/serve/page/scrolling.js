// The page stays at the end of what grows, as long as the reader is there.

const NEAR = 100; // pixels from the end that count as there
const main = document.querySelector("main");
let atEnd = true;

export function goToEnd() {
  atEnd = true;
  main.scrollTop = main.scrollHeight;
}

/** Follow the content, and the window around it, from now on. */
export function follow(content) {
  main.addEventListener("scroll", () => {
    atEnd = main.scrollHeight - main.scrollTop - main.clientHeight < NEAR;
  });
  const observer = new ResizeObserver(() => atEnd && goToEnd());
  observer.observe(main);
  observer.observe(content);
}
