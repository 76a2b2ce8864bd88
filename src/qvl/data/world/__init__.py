"""The tiny world: an endless, seeded source of pictures with exact answers, in English and Chinese."""
