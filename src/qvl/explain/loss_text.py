"""The loss table for a terminal."""

from collections.abc import Iterator

from qvl.explain.columns import padded
from qvl.explain.loss import LossTable, TokenLoss
from qvl.explain.words import WORDS

GREEN, RED, GREY, END = "\033[32m", "\033[31m", "\033[90m", "\033[0m"
WIDTHS = (7, 19, 13, 27, 8)


def table_text(table: LossTable, language: str, colours: bool) -> str:
    """A row for each token that counts; runs of those that do not are one line with the reason."""
    words = WORDS[language]
    names = [words[key] for key in ("place", "true", "probability", "favourite", "loss")]
    lines = [words["title"], words["forced"], "", padded(names, WIDTHS)]
    for why, tokens in table.runs():
        if why is None:
            lines += [_coloured(token, words, colours) for token in tokens]
        else:
            text = words["skipped"].format(len(tokens), words[why])
            lines.append(f"{GREY}{text}{END}" if colours else text)
    return "\n".join([*lines, "", *summary(table, language)])


def summary(table: LossTable, language: str) -> Iterator[str]:
    """The sums, and what the model says by itself."""
    words = WORDS[language]
    yield words["sum"].format(table.total, len(table.supervised), table.mean)
    wrong = sum(not token.is_favourite for token in table.supervised)
    if wrong:
        yield words["wrong"].format(wrong)
    if table.true_tokens:
        same = table.said_tokens == table.true_tokens
        yield f"{words['said']}: {table.said}"
        yield words["same"] if same else words["parted"].format(table.parted)


def shown(text: str) -> str:
    """A token that can be seen: spaces and line ends as signs."""
    return text.replace(" ", "␣").replace("\n", "⏎")


def favourite_text(token: TokenLoss, words: dict[str, str]) -> str:
    """The model's favourite with its probability, and how far it would have moved a box; "=" for the true token."""
    if token.is_favourite:
        return "="
    off = f" ({words['off'].format(token.off)})" if token.off else ""
    return f"{shown(token.favourite)} {token.favourite_probability:.2f}{off}"


def _coloured(token: TokenLoss, words: dict[str, str], colours: bool) -> str:
    favourite = favourite_text(token, words)
    cells = [str(token.place), shown(token.text), f"{token.probability:.3f}", favourite, f"{token.loss:.3f}"]
    row = padded(cells, WIDTHS)
    return f"{GREEN if token.is_favourite else RED}{row}{END}" if colours else row
