"""Completion without learned weights: what was observed is kept, the rest is carried over or painted in.

The baseline that other video editors are to beat (docs/completion.md).
"""
