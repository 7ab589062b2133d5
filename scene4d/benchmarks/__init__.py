"""Items of the region benchmark: `world_items` with exact truth, `footage` from real clips; `baselines` to compare."""
