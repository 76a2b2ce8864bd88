"""Synthetic OCR: text in many fonts on photographs and textures, with the quad of every word, line and block.

fonts, corpus -> layout (what stands where, flat) -> warp (bends and slants, pixels and quads alike) -> page (one
picture) -> build (shards).
"""
