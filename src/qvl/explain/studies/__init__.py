"""The paper's ablations at tiny scale: one setting changes, everything else stays (appendix E)."""
