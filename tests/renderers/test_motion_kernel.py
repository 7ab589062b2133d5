"""The C++ kernel of the motion of Gaussians against the definition in torch."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from renderers.motion import DEGREES, Motion
from tests.renderers.random_motion import random_motion, results


def largest_relative_difference(motion: Motion) -> float:
    expected, got = results(motion, "torch"), results(motion, "cpu")
    errors = [
        (got[name] - expected[name]).abs().max() / expected[name].abs().max().clamp_min(1e-3)
        for name in expected
        if expected[name].numel()
    ]
    return torch.stack(errors).max().item() if errors else 0.0


@pytest.mark.parametrize("parts", ["blend path window", "blend", "path", "window", "blend window", "path window"])
@pytest.mark.parametrize("degree", DEGREES)
def test_kernel_agrees_with_the_definition(parts: str, degree: int) -> None:
    """Same formulas in float64, added up in another order: a thousand times epsilon is left for sums over 1003 rows."""
    assert largest_relative_difference(random_motion(1003, J=20, degree=degree, parts=parts)) < 1e-9


@pytest.mark.parametrize("M", [0, 1, 2, 3, 4])
def test_kernel_agrees_with_the_definition_for_any_number_of_slots(M: int) -> None:
    assert largest_relative_difference(random_motion(103, M=M, clocks=True)) < 1e-9


@settings(deadline=None, max_examples=60)
@given(
    N=st.integers(0, 40),
    J=st.integers(1, 9),
    M=st.integers(0, 4),
    degree=st.sampled_from(DEGREES),
    seed=st.integers(0, 10**6),
    clocks=st.booleans(),
)
def test_kernel_agrees_with_the_definition_on_random_cases(
    N: int, J: int, M: int, degree: int, seed: int, clocks: bool
) -> None:
    assert largest_relative_difference(random_motion(N, J, M, degree, seed=seed, clocks=clocks)) < 1e-9


def test_kernel_agrees_with_the_definition_where_partial_sums_are_at_their_largest_number() -> None:
    """Beyond 131072 Gaussians a partial sum covers more than 2048 of them."""
    assert largest_relative_difference(random_motion(140_001, M=2, degree=0)) < 1e-9


def test_kernel_in_float32_agrees_with_the_definition_in_float64() -> None:
    """float32 rounds to 6e-8; two dozen operations on numbers up to 10, and a few ill-conditioned blends among 1003."""
    motion = random_motion(1003, J=20, dtype=torch.float32)
    doubled = {f.name: x.double() if (x := getattr(motion, f.name)).is_floating_point() else x for f in fields(motion)}
    expected, got = results(replace(motion, **doubled), "torch"), results(motion, "cpu")
    for name in expected:
        error = (got[name] - expected[name]).abs().max() / expected[name].abs().max()
        assert error < 2e-5, name


def test_kernel_takes_tensors_with_any_strides() -> None:
    motion = random_motion(50)
    strided = {
        f.name: x.T.contiguous().T if x.ndim == 2 else x.repeat_interleave(2)[::2] if x.ndim == 1 else x
        for f in fields(motion)
        if (x := getattr(motion, f.name)) is not None
    }
    assert not strided["means"].is_contiguous()
    expected, got = results(motion, "cpu"), results(replace(motion, **strided), "cpu")
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    motion = random_motion(30_001, J=7, dtype=dtype)  # many Gaussians a transform, in 15 partial sums
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            runs.append(results(motion, "cpu"))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(run[name], runs[0][name]) for name in run)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_definition_on_cuda_agrees_with_the_cpu() -> None:
    motion = random_motion(1003, J=20)
    on_cuda = {f.name: getattr(motion, f.name).cuda() for f in fields(motion)}
    expected, got = results(motion, "torch"), results(replace(motion, **on_cuda), "auto")
    for name in expected:
        error = (got[name].cpu() - expected[name]).abs().max() / expected[name].abs().max()
        assert error < 1e-9, name  # float64, added up in another order
