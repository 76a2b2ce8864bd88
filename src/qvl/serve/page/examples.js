// Questions to click. The pictures are scenes of the tiny world, drawn by scripts/page_examples.py.

export const EXAMPLES = [
  { pictures: ["house"], en: "Find the red house.", zh: "框出红色房子。" },
  { pictures: ["shapes"], en: "Describe the picture.", zh: "描述这张图片。" },
  { pictures: ["sign"], en: "OCR with grounding:", zh: "OCR with grounding:" },
  { pictures: ["house", "ring"], en: "In picture 2: Find the blue ring.", zh: "图2中，框出蓝色圆环。" },
];

export const address = (picture) => `examples/${picture}.webp`;
