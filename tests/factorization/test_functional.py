"""Kernels as products: exact at full rank, and what each rank keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacc.factorization.functional import balanced, product
from kacc.factorization.inputs import RIDGE, Inputs, looked_up, measured
from kacc.factorization.methods import METHODS, methods_for
from kacc.factorization.svd import full, is_few, lanczos, leading


def _inputs(size, seed, rows=None, free=False):
    """Moments of correlated rows; of fewer rows than columns they are singular."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows or 4 * size, size)) @ rng.normal(size=(size, size)) + 1.0
    return measured(x.T @ x, x.sum(0), len(x), free)


@st.composite
def _problems(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)))
    method = draw(st.sampled_from(methods_for(shape, "auto")))
    seed = draw(st.integers(0, 99))
    kernel = np.random.default_rng(seed).normal(size=shape)
    size = kernel[..., 0].size
    rows = draw(st.sampled_from((1, size, 4 * size)))
    inputs = _inputs(size, seed, rows) if draw(st.booleans()) else Inputs()
    return method, kernel, inputs


def _error(kernel, factors, inputs):
    missing = (kernel - product(factors)).reshape(-1, kernel.shape[-1])
    whole = kernel.reshape(-1, kernel.shape[-1])
    return (inputs.whiten(missing) ** 2).sum() / (inputs.whiten(whole) ** 2).sum()


@given(_problems())
def test_full_rank_is_the_kernel(problem):
    method, kernel, inputs = problem
    ranks = METHODS[method].full(kernel.shape)
    spectrum = METHODS[method].spectrum(kernel, inputs)
    assert spectrum.at(*ranks) == pytest.approx(1.0)
    factors = spectrum.factors(*ranks)
    np.testing.assert_allclose(product(factors), kernel, atol=1e-7)


@given(_problems(), st.data())
def test_what_is_kept_is_what_the_factors_keep(problem, data):
    method, kernel, inputs = problem
    spectrum = METHODS[method].spectrum(kernel, inputs)
    ranks = [data.draw(st.integers(1, n)) for n in METHODS[method].full(kernel.shape)]
    factors = spectrum.factors(*ranks)
    shapes = METHODS[method].shapes(kernel.shape, *ranks)
    assert [factor.shape for factor in factors] == shapes
    lost = _error(kernel, factors, inputs)
    if method == "tucker":  # the outputs' directions are found anew for the ranks
        assert lost <= 1 - spectrum.at(*ranks) + 1e-9
    else:
        assert lost == pytest.approx(1 - spectrum.at(*ranks), abs=1e-9)


@given(_problems())
def test_more_rank_keeps_more(problem):
    method, kernel, inputs = problem
    kept = METHODS[method].spectrum(kernel, inputs).kept
    for axis in range(kept.ndim):
        assert (np.diff(kept, axis=axis) >= -1e-12).all()


@given(_problems(), st.data())
def test_a_limit_changes_nothing_up_to_it(problem, data):
    method, kernel, inputs = problem
    first = METHODS[method].full(kernel.shape)[0]
    limit = data.draw(st.integers(1, first))
    whole = METHODS[method].spectrum(kernel, inputs)
    part = METHODS[method].spectrum(kernel, inputs, limit)
    np.testing.assert_allclose(part.kept, whole.kept[:limit], atol=1e-9)


def test_no_matrix_of_the_rank_has_less_output_error():
    """Eckart and Young, in the coordinates of the data."""
    inputs = _inputs(12, 0)
    kernel = np.random.default_rng(1).normal(size=(12, 9))
    best = METHODS["svd"].spectrum(kernel, inputs)
    for rank in (1, 3, 6):
        factors = best.factors(rank)
        least = _error(kernel, factors, inputs)
        plain = METHODS["svd"].spectrum(kernel, Inputs()).factors(rank)
        assert least < _error(kernel, plain, inputs)
        for seed in range(20):
            noise = np.random.default_rng(seed).normal(size=factors[0].shape) * 1e-2
            moved = [factors[0] + noise, factors[1]]
            assert _error(kernel, moved, inputs) > least


def test_inputs_without_energy_and_kernels_of_zeros():
    nothing = measured(np.zeros((4, 4)), np.zeros(4), 10, free=True)
    for method, shape in (("svd", (4, 3)), ("channel_in", (1, 2, 2, 3))):
        for kernel in (np.ones(shape), np.zeros(shape)):
            spectrum = METHODS[method].spectrum(kernel, nothing)
            for factor in spectrum.factors(1):
                assert np.isfinite(factor).all()


def test_the_ridge_is_a_share_of_the_mean_and_tables_count_from_one():
    x = np.array([[2.0, 0.0]])
    moments = measured(x.T @ x, x.sum(0), 1, free=False).moments
    np.testing.assert_allclose(moments, np.diag([4.0, 0.0]) + RIDGE * 2 * np.eye(2))
    assert looked_up(np.array([8, 0])).moments.tolist() == [0.9, 0.1]


def test_averaged_moments_are_those_of_the_parts():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2, 3, 2))
    rows = x.reshape(50, -1)
    inputs = Inputs(rows.T @ rows)
    parts = x.transpose(0, 2, 1, 3).reshape(150, 4)
    found = inputs.averaged(2, 3, 2).moments
    np.testing.assert_allclose(found, parts.T @ parts / 3)
    channels = x.reshape(300, 2)
    found = inputs.averaged(1, 6, 2).moments
    np.testing.assert_allclose(found, channels.T @ channels / 6)


def test_balanced_factors_have_equal_norms():
    rng = np.random.default_rng(0)
    a, b = balanced(rng.normal(size=(5, 3)) * 9, rng.normal(size=(3, 2, 4)))
    np.testing.assert_allclose(
        np.linalg.norm(a, axis=0), np.linalg.norm(b.reshape(3, -1), axis=1)
    )


@pytest.mark.parametrize("solver", [full, lanczos])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_solvers_find_the_leading_vectors(solver, shape):
    rng = np.random.default_rng(0)
    u, _, vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    s = 0.5 ** np.arange(40)
    found = solver((u * s) @ vt, 5)
    np.testing.assert_allclose(found[1], s[:5], rtol=1e-6)
    np.testing.assert_allclose(
        (found[0] * found[1]) @ found[2], (u * s)[:, :5] @ vt[:5], atol=1e-6
    )


def test_few_vectors_of_a_large_matrix_are_found_by_lanczos(monkeypatch):
    large = np.random.default_rng(0).normal(size=(1000, 900))
    assert is_few(large, 20)
    assert not is_few(large, 500)
    assert not is_few(large[:100], 5)
    wanted = full(large, 10)
    asked = []
    monkeypatch.setattr("kacc.factorization.svd.full", lambda *a: asked.append(a))
    found = leading(large, 10)
    assert not asked
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-9)


def test_where_lanczos_fails_the_whole_decomposition_is_made():
    u, s, vt = leading(np.zeros((500, 450)), 5)
    assert (u.shape, vt.shape) == ((500, 5), (5, 450))
    np.testing.assert_array_equal(s, 0)
