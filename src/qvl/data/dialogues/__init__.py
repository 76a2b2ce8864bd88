"""Dialogues for stage 3 out of captions and boxes.

writer (a language model's, through a server) and templates (from boxes alone) -> build (samples, multi-image
dialogues, counts).
"""
