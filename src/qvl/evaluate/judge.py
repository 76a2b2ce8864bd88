"""TouchStone's judge: a language model compares two answers to a question about a picture that it knows from words.

Source: eval.py of the TouchStone repository, whose wording is kept, since the scores depend on it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qvl.data.chat_server import ChatServer, Message, ask_all
from qvl.evaluate.metrics.touchstone import ROUNDS, Verdict, until_readable
from qvl.evaluate.scorers import Record

JUDGEMENTS_NAME = "judgements.jsonl"
DEFAULT_JUDGE = "gpt-4"  # the model whose scores were published
MAX_TOKENS = 64
_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
_SECTIONS = (
    ("[Detailed Image Description]", "human_annotation"),
    ("[Question]", "question"),
)
_TASK = """We would like to request your feedback on the performance of two AI assistants in response to the user \
question and image description displayed above. AI assistants are provided with detailed image description and \
questions.
Please rate the helpfulness, relevance, accuracy, comprehensiveness of their responses. Each assistant receives an \
overall score on a scale of 1 to 10, where a higher score indicates better overall performance.
Please first output a single line containing only two values indicating the scores for Assistant 1 and 2, \
respectively. The two scores are separated by a space. In the subsequent line, please provide a comprehensive \
explanation of your evaluation, avoiding any potential bias and ensuring that the order in which the responses were \
presented does not affect your judgment."""


def judge_messages(truth: dict[str, Any], answer: str, number: int) -> list[Message]:
    """What the judge reads in round 1, the reference answer first, or 2, the model's first."""
    pair = [truth["gpt4_ha_answer"], answer] if number == 1 else [answer, truth["gpt4_ha_answer"]]
    parts = [f"{title}\n{truth[name]}\n\n" for title, name in _SECTIONS]
    for place, text in enumerate(pair, start=1):
        start, end = (f"[The {side} of Assistant {place}'s Answer]" for side in ("Start", "End"))
        parts.append(f"{start}\n{text}\n\n{end}\n\n")
    parts.append(f"[System]\n{_TASK}\n\n")
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "".join(parts)}]


def judge(records: Sequence[Record], folder: Path, chat: ChatServer) -> None:
    """Both rounds of every answer, as JSON lines in the folder; goes on where a killed run was."""
    path = folder / JUDGEMENTS_NAME
    known = read_judgements(folder)
    wanted = [(record, number) for record in records for number in range(1, ROUNDS + 1)]
    wanted = [(record, number) for record, number in wanted if (record.id, number) not in known]
    bar = tqdm(total=len(records) * ROUNDS, initial=len(known), desc="judge", unit="round", dynamic_ncols=True)
    with path.open("a", encoding="utf-8") as file, bar:
        asked = ask_all(wanted, lambda one: _ask(one[0], one[1], chat), chat.server.concurrency)
        for (record, number), (verdict, replies) in asked:
            line = {"id": record.id, "round": number, "verdict": verdict, "replies": replies}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            bar.update()


def _ask(record: Record, number: int, chat: ChatServer) -> tuple[Verdict | None, list[str | None]]:
    messages = judge_messages(record.truth, record.text, number)
    return until_readable(lambda: chat.say(messages, temperature=0, max_tokens=MAX_TOKENS, stop=["\n"]))


def read_judgements(folder: Path) -> dict[tuple[str, int], Verdict | None]:
    """(question's id, round) -> what was said of it; half a line at the end of a killed run is cut off."""
    path = folder / JUDGEMENTS_NAME
    if not path.exists():
        return {}
    content = path.read_text(encoding="utf-8")
    if (whole := content[: content.rfind("\n") + 1]) != content:
        path.write_text(whole, encoding="utf-8")
    found: dict[tuple[str, int], Verdict | None] = {}
    for line in map(json.loads, whole.split("\n")[:-1]):
        found[line["id"], line["round"]] = None if line["verdict"] is None else (line["verdict"][0], line["verdict"][1])
    return found


def with_verdicts(records: Sequence[Record], folder: Path) -> list[Record] | None:
    """The answers with what the judge said; None where it has not been asked about all of them."""
    known = read_judgements(folder)
    keys = [[(record.id, number) for number in range(1, ROUNDS + 1)] for record in records]
    if any(key not in known for pair in keys for key in pair):
        return None
    return [
        replace(record, verdicts=tuple(known[key] for key in pair)) for record, pair in zip(records, keys, strict=True)
    ]
