"""A dynamic scene as rigged Gaussians: motion, captures, fitting, edits, cues and files."""
