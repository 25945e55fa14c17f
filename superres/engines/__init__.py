"""An image three times larger: models, engines, tiles and lanes."""
