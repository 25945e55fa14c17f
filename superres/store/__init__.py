"""Storage: results and their limits, uploads of jobs, the store that machines share."""
