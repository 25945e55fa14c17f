"""A picture three times larger: models, engines, tiles and lanes."""
