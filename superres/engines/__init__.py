"""Upscaling x3: models, engines, tiles and lanes."""
