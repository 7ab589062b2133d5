"""A dynamic scene as rigged Gaussians: motion, captures, fitting, edits, cues and files."""

__version__ = "0.1.0"
