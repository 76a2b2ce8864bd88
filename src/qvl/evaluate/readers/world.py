"""Samples in shards: the tiny world's held-out split, or one's own. Each is asked as the model was trained on it."""

from collections.abc import Sequence
from pathlib import Path

from qvl.data.sample import read_split
from qvl.evaluate.rows import Row
from qvl.text.markup import to_json


def read_samples(files: Sequence[Path], images_dir: Path, task: str) -> list[Row]:
    """The samples of a task in a folder of shards; their last turn is the truth."""
    [folder] = files
    return [
        Row(
            sample.id,
            sample.images,
            {},
            to_json(sample.turns[-1].content),
            sample.language,
            turns=tuple((turn.role, turn.content) for turn in sample.turns),
            task=sample.task,
            language=sample.language,
        )
        for sample in read_split(folder)
        if sample.task == task
    ]
