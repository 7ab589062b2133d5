"""Commands of `scene4d` that need editors, one module each."""
