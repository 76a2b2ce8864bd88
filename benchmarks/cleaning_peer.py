"""data-juicer's filters on pairs.jsonl of a folder: what benchmarks/cleaning.py --peer runs, with that one's Python.

Its operators that match a rule of ours, fused so that a picture is read once for all of them (its fastest way), one
process. Prints wall seconds, CPU seconds and peak MB, imports left out.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

from data_juicer.core.data import NestedDataset
from data_juicer.ops import load_ops
from data_juicer.ops.op_fusion import fuse_operators
from loguru import logger

OPERATORS = (
    {"image_aspect_ratio_filter": {"min_ratio": 1 / 3, "max_ratio": 3.0}},
    {"image_shape_filter": {"min_width": 224, "min_height": 224}},
    {"specified_numeric_field_filter": {"field_key": "similarity", "min_value": 0.31}},
    {"alphanumeric_filter": {"min_ratio": 0.25}},  # the nearest to our rule on foreign characters
    {"special_characters_filter": {"max_ratio": 0.25}},  # the nearest to our rule on emoji
    {"text_length_filter": {"min_len": 5, "max_len": 600}},
    {"clean_html_mapper": {}},
    {"clean_links_mapper": {}},
    {"clean_email_mapper": {}},
)


def main() -> None:
    folder = Path(sys.argv[1])
    logger.remove()
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    operators = load_ops([{name: {**values, "num_proc": 1}} for part in OPERATORS for name, values in part.items()])
    start, before = time.perf_counter(), sum(os.times()[:4])
    pairs = [
        {"text": row["caption"], "images": [str(folder / row["image_path"])], "similarity": row["similarity"]}
        for row in rows
    ]
    left = NestedDataset.from_list(pairs).process(fuse_operators(operators), open_monitor=False)
    left.to_json(str(folder / "left.jsonl.out"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.perf_counter() - start, sum(os.times()[:4]) - before, peak]))


if __name__ == "__main__":
    main()
