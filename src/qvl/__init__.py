"""qvl: Qwen-VL, end to end."""
