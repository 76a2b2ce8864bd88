"""Readers of annotated data sets in their true formats -> samples of the tasks of stages 2 and 3.

common (what a reader gives) <- vqa, grounding (grit), dialogues (objects) -> convert (samples, counts, shards).
"""
