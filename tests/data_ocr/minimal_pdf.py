"""PDF files written by hand, object by object, for what no printer makes: odd boxes, hidden text, ciphers."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

WORDS = "BT /F 24 Tf 60 200 Td (Purple lamp) Tj ET"
HELVETICA = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")  # PDF 1.7, 7.6.3.3


def write_pdf(
    path: Path,
    content: str | Sequence[str] = WORDS,
    page: str = "/MediaBox [0 0 300 400]",
    font: str = HELVETICA,
    resources: str = "",
    objects: Sequence[str] = (),
    passwords: tuple[str, str] | None = None,
) -> Path:
    """A page for each content, with /F as its font. `objects` are numbers 5, 6, ...; passwords: of user and owner."""
    contents = [content] if isinstance(content, str) else list(content)
    first = 5 + len(objects)
    numbers = [first + 2 * i for i in range(len(contents))]
    bodies = {
        1: "<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Kids [{' '.join(f'{n} 0 R' for n in numbers)}] /Count {len(numbers)} >>",
        3: font,
        4: "null",
        **{5 + i: body for i, body in enumerate(objects)},
    }
    cipher = _Cipher(*passwords) if passwords else None
    streams: dict[int, bytes] = {}
    for number, drawn in zip(numbers, contents, strict=True):
        used = f"/Resources << /Font << /F 3 0 R >> {resources} >>"
        bodies[number] = f"<< /Type /Page /Parent 2 0 R {page} /Contents {number + 1} 0 R {used} >>"
        streams[number + 1] = cipher.encrypt(number + 1, drawn.encode("latin-1")) if cipher else drawn.encode("latin-1")
    out, places = b"%PDF-1.4\n", {}
    for number in sorted({*bodies, *streams}):
        places[number] = len(out)
        out += f"{number} 0 obj\n".encode()
        if number in streams:
            out += f"<< /Length {len(streams[number])} >>\nstream\n".encode() + streams[number] + b"\nendstream"
        else:
            out += bodies[number].encode("latin-1")
        out += b"\nendobj\n"
    table = "0000000000 65535 f \n" + "".join(f"{places[n]:010d} 00000 n \n" for n in sorted(places))
    trailer = f"/Size {len(places) + 1} /Root 1 0 R {cipher.dictionary if cipher else ''}"
    out += f"xref\n0 {len(places) + 1}\n{table}trailer\n<< {trailer} >>\nstartxref\n{len(out)}\n%%EOF\n".encode(
        "latin-1"
    )
    path.write_bytes(out)
    return path


def lines_of_text(lines: Sequence[tuple[str, float, float]], size: float = 10) -> str:
    """Content that writes each (text, x, y) in the order given."""
    return "".join(f"BT /F {size} Tf {x} {y} Td ({text}) Tj ET\n" for text, x, y in lines)


class _Cipher:
    """The standard security handler, revision 2: RC4 with 40 bits."""

    def __init__(self, user: str, owner: str) -> None:
        owner_key = hashlib.md5(_padded(owner)).digest()[:5]
        proof = _rc4(owner_key, _padded(user))
        permissions, identity = (-4).to_bytes(4, "little", signed=True), b"0123456789abcdef"
        self.key = hashlib.md5(_padded(user) + proof + permissions + identity).digest()[:5]
        check = _rc4(self.key, PADDING)
        self.dictionary = (
            f"/ID [<{identity.hex()}> <{identity.hex()}>] "
            f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{proof.hex()}> /U <{check.hex()}> /P -4 >>"
        )

    def encrypt(self, number: int, data: bytes) -> bytes:
        """Of the object with this number, generation 0."""
        return _rc4(hashlib.md5(self.key + number.to_bytes(3, "little") + b"\0\0").digest()[:10], data)


def _padded(password: str) -> bytes:
    return (password.encode() + PADDING)[:32]


def _rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
