"""A fit in its run folder: its checkpoints, and what happens when a step fails.

It goes back to the last checkpoint, and on from there with smaller steps or fewer Gaussians.

N Gaussians.
"""

from __future__ import annotations

import gc
import traceback
from dataclasses import dataclass

import torch

from scene4d.checkpoints import Checkpoint
from scene4d.cli import is_out_of_memory
from scene4d.fitting.model import gather
from scene4d.fitting.train import MOST_ROLLBACKS, Diverged, Fit
from scene4d.runs import Run

MOST_SHRINKS = 3
KEPT = 0.7  # of the Gaussians, after the memory ran out
SMALLEST = 100  # Gaussians; FitSettings takes no fewer


@dataclass(eq=False)
class Work:
    """A fit in its run folder."""

    fit: Fit
    run: Run
    seconds: dict[str, float]  # of work, by phase
    shrinks: int = 0  # how often it ran out of memory

    def save(self) -> None:
        """Write a checkpoint. Raises FloatingPointError rather than one that is not finite."""
        if not self.fit.is_finite():
            raise FloatingPointError(f"a parameter is not finite after {self.fit.step} steps")
        state = {"fit": self.fit.state(), "seconds": self.seconds, "shrinks": self.shrinks}
        self.run.save_checkpoint(self.fit.step, state)

    def restore(self, found: Checkpoint) -> None:
        self.fit.restore(found.step, found.state["fit"])
        self.seconds, self.shrinks = dict(found.state["seconds"]), found.state["shrinks"]

    def go_back(self) -> None:
        """To the last checkpoint that is whole."""
        found = self.run.load_checkpoint()
        assert found is not None  # one is written before the first step
        self.restore(found)


def recover(work: Work, error: Exception) -> str:
    """Bring a fit whose step has raised `error` to where it can go on. Returns what was done, in one line.

    Raises:
        Diverged: it ran into numbers that are not finite more than MOST_ROLLBACKS times.
        MemoryError: it ran out of memory more than MOST_SHRINKS times.
        Exception: `error` itself, where it tells of neither.
    """
    if is_out_of_memory(error):
        text = _shrink(work, error)
    # of parameters that are not finite, whoever meets them first complains: a renderer, a drawing of chance
    elif isinstance(error, FloatingPointError) or not work.fit.is_finite():
        text = _roll_back(work, error)
    else:
        raise error
    work.save()  # so that a fit that is killed now does not fail in the same way again
    # as of the step before: going back here once more drops the records from this step on
    work.run.log(work.fit.step - 1, {"event": text})
    return text


def prune(fit: Fit, count: int) -> None:
    """Keep the `count` most opaque Gaussians, in their order."""
    if len(fit.model) <= count:
        return
    order = fit.model.params["logit_opacities"].detach().argsort(descending=True, stable=True)
    rows = order[:count].sort().values
    gather(fit.model, rows, torch.zeros(count, dtype=torch.bool, device=rows.device))
    fit.forget()


def _roll_back(work: Work, error: Exception) -> str:
    fit = work.fit
    failed, rollbacks, caution = fit.step, fit.rollbacks + 1, fit.caution / 2
    if rollbacks > MOST_ROLLBACKS:
        raise Diverged(
            f"the fit diverged {rollbacks} times, last at step {failed} ({error}); look at the capture with `scene4d "
            "inspect`, or fit anew with another --seed"
        ) from error
    work.go_back()
    fit.rollbacks, fit.caution = rollbacks, caution
    return f"diverged at step {failed} ({error}); back at step {fit.step}, learning rates times {caution:g}"


def _shrink(work: Work, error: Exception) -> str:
    fit = work.fit
    failed, shrinks, count = fit.step, work.shrinks + 1, len(fit.model)
    if shrinks > MOST_SHRINKS:
        raise MemoryError(
            f"at step {failed} with {count} Gaussians, after {MOST_SHRINKS} reductions; fit with a smaller "
            "--max-gaussians or --long-side"
        ) from error
    traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step that failed
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    work.go_back()
    work.shrinks, fit.cap = shrinks, max(SMALLEST, int(KEPT * count))
    prune(fit, fit.cap)
    return f"out of memory at step {failed}; back at step {fit.step}, with at most {fit.cap} Gaussians"
