// Pictures from files to what is sent. Each is drawn anew: turned as its camera says, transparency on white, the first
// frame of an animation, no metadata, at most MAX_SIDE pixels; so the server sees just what the page shows.

const MAX_SIDE = 1536;
const MAX_PNG = 1_000_000; // characters of a data URI; what is larger is a photograph
const JPEG_QUALITY = 0.9;

/** A file or blob -> {uri, name, width, height}. Throws when the browser can't read it as a picture. */
export async function readPicture(file) {
  const address = URL.createObjectURL(file);
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = drawn(image);
    return { uri: dataUri(canvas, file.type), name: file.name ?? "", width: canvas.width, height: canvas.height };
  } finally {
    URL.revokeObjectURL(address);
  }
}

function drawn(image) {
  const scale = Math.min(1, MAX_SIDE / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function dataUri(canvas, type) {
  const png = type === "image/jpeg" ? "" : canvas.toDataURL("image/png");
  return png && png.length <= MAX_PNG ? png : canvas.toDataURL("image/jpeg", JPEG_QUALITY);
}
