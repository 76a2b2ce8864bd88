"""Image-text pairs as the web gives them -> captioning samples, with an account of every pair.

sources (settings per data set) and rules (pure, on columns) -> readers (files to pairs) -> clean (one unit of
work) -> run (all of them, resumable) -> funnel (the account and its page).
"""
