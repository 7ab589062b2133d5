"""One module a command of the `scene4d` command line."""
