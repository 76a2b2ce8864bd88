"""Atoms -> lines: rows on one baseline, and vertical Chinese."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from qvl.data.language import is_cjk
from qvl.data.ocr.page import Atom, Line, stands_upright, union, upright

WORD_GAP, GLUED_GAP = 1.0, 0.3  # of the line's height, at most, between atoms with and without a space
OVERLAP, MARK_OVERLAP = 0.3, 0.6  # of the height, at most, by which neighbours' boxes overlap, and those of marks
STACK_GAP = 0.35  # of its width, at most, between a character and the one below it in vertical text
LEADER_DOTS, LEADERS = frozenset(".·…‥"), 6  # so many dots in a row are no text
JOIN_GAP, SPACE = 0.7, 0.12  # of the height: pieces of a row that join, and from where on a space parts them


def without_leaders(atoms: Iterable[Atom]) -> list[Atom]:
    """The atoms without rows of dots that lead the eye through a table of contents: nobody reads them."""
    out: list[Atom] = []
    for dots, run in groupby(atoms, lambda atom: set(atom.text) <= LEADER_DOTS):
        some = list(run)
        if not dots or sum(len(atom.text) for atom in some) < LEADERS:
            out += some
    return out


@dataclass
class _Open:
    """A line that grows."""

    atoms: list[Atom]
    vertical: bool = False


def merge(atoms: Iterable[Atom]) -> list[Line]:
    """Atoms in document order -> lines: neighbours of one direction that lie close, side by side or stacked."""
    lines: list[_Open] = []
    for atom in atoms:
        last = lines[-1] if lines else _Open([])
        if last.atoms and last.vertical and _beside(last.atoms[-1], atom) and stands_upright(atom):
            # Its last character was no part of a column after all, but begins this row.
            lines.append(_Open([last.atoms.pop(), atom]))
            last.vertical = len(last.atoms) > 1
        elif last.atoms and not last.vertical and _beside(last.atoms[-1], atom):
            last.atoms.append(atom)
        elif last.atoms and _stacks(last, atom):
            last.atoms.append(atom)
            last.vertical = True
        else:
            lines.append(_Open([atom]))
    return [Line(tuple(line.atoms), line.vertical) for line in lines]


def _beside(last: Atom, atom: Atom) -> bool:
    if last.angle != atom.angle:
        return False
    _, top, right, bottom = upright(last.box, last.angle)
    x0, y0, _, y1 = upright(atom.box, atom.angle)
    height = max(bottom - top, y1 - y0)
    overlap = min(bottom, y1) - max(top, y0)
    gap = (x0 - right) / max(height, 1e-6)
    widest = WORD_GAP if atom.space_before else GLUED_GAP  # wider ones part columns and the cells of a table
    narrowest = -MARK_OVERLAP if _meet_in_marks(last, atom) else -OVERLAP
    return overlap >= 0.4 * min(bottom - top, y1 - y0) and narrowest <= gap <= widest


def _meet_in_marks(last: Atom, atom: Atom) -> bool:
    """Whether punctuation ends the one or begins the other: in Chinese fonts half empty, and often set closer."""
    return not (last.text[-1].isalnum() and atom.text[0].isalnum())


def _stacks(line: _Open, atom: Atom) -> bool:
    """Whether the atom goes on with vertical text: Chinese stands upright in it, Latin lies on its right side."""
    last = line.atoms[-1]
    standing = next((a for a in (last, atom) if stands_upright(a)), None)
    if standing is None:
        return line.vertical and last.angle == atom.angle and _beside(last, atom)
    if not line.vertical and len(line.atoms) > 1 and last.angle == standing.angle:
        return False  # a row
    if any(not stands_upright(a) and a.angle != (standing.angle + 90) % 360 for a in (last, atom)):
        return False
    x0, y0, x1, y1 = upright(last.box, standing.angle)
    u0, v0, u1, v1 = upright(atom.box, standing.angle)
    size = min(x1 - x0, u1 - u0)
    overlap = min(x1, u1) - max(x0, u0)
    return overlap >= 0.6 * size and v0 >= y0 + 0.4 * min(y1 - y0, v1 - v0) and v0 - y1 <= STACK_GAP * size


def join_rows(lines: Sequence[Line]) -> list[Line]:
    """Pieces of one row that the source gives apart or out of order -> whole rows, where the gaps are those of words.

    The order of the lines is kept, a row taking the place of its first piece.
    """
    following = _right_neighbours(lines)
    firsts = set(range(len(lines))) - set(following.values())
    out: list[tuple[int, Line]] = []
    for first in firsts:
        chain = [first]
        while (after := following.get(chain[-1])) is not None:
            chain.append(after)
        atoms = list(lines[first].atoms)
        for one, two in pairwise(chain):
            head, *rest = lines[two].atoms
            atoms += [replace(head, space_before=_spaced(lines[one].atoms[-1], head)), *rest]
        out.append((min(chain), Line(tuple(atoms), lines[first].vertical)))
    return [line for _, line in sorted(out, key=lambda item: item[0])]


def _right_neighbours(lines: Sequence[Line]) -> dict[int, int]:
    """Row -> the row that goes on right of it. Each is followed by one at most, and follows one at most."""
    found: dict[int, int] = {}
    for angle in {line.direction for line in lines}:
        own = [i for i, line in enumerate(lines) if line.direction == angle and not line.vertical]
        if len(own) < 2:
            continue
        x0, y0, x1, y1 = np.array([upright(union(a.box for a in lines[i].atoms), angle) for i in own]).T
        ends, starts = (np.array([lines[i].atoms[at].text[at].isalnum() for i in own]) for at in (-1, 0))
        following, before = np.full(len(own), -1), np.full(len(own), -1)
        closest = np.full(len(own), np.inf)  # to each row, what goes before it
        for i in range(len(own)):  # not all with all at once: a page may have many thousand pieces
            height = np.minimum(y1 - y0, y1[i] - y0[i])
            overlap = np.minimum(y1, y1[i]) - np.maximum(y0, y0[i])
            gap = (x0 - x1[i]) / np.maximum(height, 1e-6)
            narrowest = np.where(starts & ends[i], -0.1, -MARK_OVERLAP)
            gap[(gap < narrowest) | (gap > JOIN_GAP) | (overlap < 0.6 * height) | (x0 <= x0[i])] = np.inf
            nearest = int(gap.argmin())
            if np.isfinite(gap[nearest]):
                following[i] = nearest
            leads = gap < closest
            closest[leads] = gap[leads]
            before[leads] = i
        found.update((own[i], own[j]) for j, i in enumerate(before) if i >= 0 and following[i] == j)
    return found


def _spaced(last: Atom, head: Atom) -> bool:
    """Chinese has no spaces; elsewhere the gap tells."""
    if is_cjk(last.text[-1]) or is_cjk(head.text[0]):
        return False
    _, top, right, bottom = upright(last.box, last.angle)
    return upright(head.box, head.angle)[0] - right > SPACE * (bottom - top)
