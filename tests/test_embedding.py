"""embedding and the gradient of its table."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import kernels, nn
from reference import (
    EDGE_SIZES,
    LAYOUTS,
    assert_close,
    assert_gradient,
    assert_same,
    assert_same_bits,
    empty_with_layout,
    guarded,
    with_layout,
)


def backward_reference(dy, indices, rows):
    dweight = np.zeros((rows, dy.shape[-1]))
    np.add.at(dweight, indices.ravel(), dy.reshape(indices.size, dy.shape[-1]).astype(np.float64))
    return dweight


@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_values_and_gradients(index_type, level, dtype, rng):
    for width in EDGE_SIZES:
        weight = rng.standard_normal((11, width)).astype(dtype)
        for shape in ((), (7,), (3, 5), (0,), (2, 1, 40)):
            indices = rng.integers(0, 11, shape).astype(index_type)
            assert_same(kernels.embedding(indices, weight), weight[indices])
            dy = rng.standard_normal((*shape, width)).astype(dtype)
            dweight = kernels.embedding_backward(dy, indices, 11)
            assert_close(dweight, backward_reference(dy, indices, 11), 40, scale=8.0)


def test_many_equal_indices(level, dtype, rng):
    indices = rng.integers(0, 3, 5000)
    dy = rng.standard_normal((5000, 19)).astype(dtype)
    dweight = kernels.embedding_backward(dy, indices, 4)
    assert_close(dweight, backward_reference(dy, indices, 4), 200, scale=8.0)
    assert_same(dweight[3], np.zeros(19, dtype))
    mean = kernels.embedding_backward(dy, indices, 4, scale_grad_by_freq=True)
    counts = np.maximum(np.bincount(indices, minlength=4), 1)[:, None]
    assert_close(mean, dweight.astype(np.float64) / counts, 4)


def test_a_large_table_is_written_around_the_caches(dtype, rng):
    rows = 200_000  # beyond the size from where the kernel streams
    indices = rng.integers(0, rows, 300)
    dy = rng.standard_normal((300, 32)).astype(dtype)
    dweight = kernels.embedding_backward(dy, indices, rows)
    expected = np.zeros((rows, 32), dtype)
    np.add.at(expected, indices, dy)
    np.testing.assert_allclose(dweight, expected, rtol=1e-5, atol=1e-5)


def test_padding_idx(level, dtype, rng):
    indices = np.array([[1, 4, 1], [0, 4, 2]])
    dy = rng.standard_normal((2, 3, 9)).astype(dtype)
    expected = backward_reference(dy, indices, 5)
    expected[4] = 0
    for padding in (4, -1):
        assert_close(kernels.embedding_backward(dy, indices, 5, padding_idx=padding), expected, 2)


@pytest.mark.parametrize("memory", LAYOUTS)
def test_memory_layouts(memory, level, dtype, rng):
    weight = rng.standard_normal((8, 21)).astype(dtype)
    indices = rng.integers(0, 8, (3, 4))
    dy = rng.standard_normal((3, 4, 21)).astype(dtype)
    expected = kernels.embedding_backward(dy, indices, 8)
    held = with_layout(indices, memory)
    out = empty_with_layout((3, 4, 21), dtype, memory)
    assert kernels.embedding(held, with_layout(weight, memory), out=out) is out
    assert_same(np.ascontiguousarray(out), weight[indices])
    out = empty_with_layout((8, 21), dtype, memory)
    assert kernels.embedding_backward(with_layout(dy, memory), held, 8, out=out) is out
    assert_same(np.ascontiguousarray(out), expected)


def test_nothing_outside_is_written(level, dtype, rng):
    weight = rng.standard_normal((5, 13)).astype(dtype)
    indices = rng.integers(0, 5, 6)
    for shape, call in (
        ((6, 13), lambda out: kernels.embedding(indices, weight, out=out)),
        ((5, 13), lambda out: kernels.embedding_backward(weight[indices], indices, 5, out=out)),
    ):
        out, check = guarded(shape, dtype)
        call(out)
        check()


def test_same_bits_for_any_number_of_threads(rng):
    weight = rng.standard_normal((3000, 40)).astype(np.float32)
    indices = rng.integers(0, 3000, 5000)
    indices[::3] = 17
    dy = rng.standard_normal((5000, 40)).astype(np.float32)
    assert_same_bits(lambda: kernels.embedding(indices, weight))
    assert_same_bits(lambda: kernels.embedding_backward(dy, indices, 3000))


def test_nan_and_infinity_stay_in_their_row(level, dtype):
    weight = np.ones((3, 5), dtype)
    weight[1] = np.nan
    assert np.isfinite(kernels.embedding(np.array([0, 2]), weight)).all()
    dy = np.array([[np.inf] * 5, [1] * 5], dtype)
    dweight = kernels.embedding_backward(dy, np.array([2, 0]), 3)
    assert dweight[:, 0].tolist() == [1, 0, np.inf]


def test_gradient(level, rng):
    weight = rng.standard_normal((4, 5))
    indices = np.array([3, 0, 3, 1])
    dy = rng.standard_normal((4, 5))
    dweight = kernels.embedding_backward(dy, indices, 4)
    assert_gradient(dweight, lambda: kernels.embedding(indices, weight), weight, dy)


@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_an_index_outside_is_named(index_type, dtype):
    weight = np.ones((10, 3), dtype)
    for bad in (10, -1, 2**31 - 1, -(2**31)):
        indices = np.zeros((40, 50), index_type)
        indices[33, 7] = bad
        text = rf"indices must lie in \[0, 10\) .* got {bad} at position \(33, 7\)"
        with pytest.raises(IndexError, match="embedding: " + text):
            kernels.embedding(indices, weight)
        with pytest.raises(IndexError, match="embedding_backward: " + text):
            kernels.embedding_backward(np.ones((40, 50, 3), dtype), indices, 10)
    with pytest.raises(IndexError, match=r"got 0 at position \(0,\)"):
        kernels.embedding(np.zeros(1, index_type), weight[:0])


def test_errors(dtype):
    weight, indices = np.ones((4, 3), dtype), np.array([1, 2])
    with pytest.raises(hl.DTypeError, match="indices must be int64 or int32"):
        kernels.embedding(indices.astype(np.float32), weight)
    with pytest.raises(hl.DTypeError, match=r"indices must be a numpy\.ndarray"):
        kernels.embedding([1, 2], weight)
    with pytest.raises(hl.ShapeError, match="weight must have 2 axes"):
        kernels.embedding(indices, weight[0])
    with pytest.raises(hl.ShapeError, match="out must have shape"):
        kernels.embedding(indices, weight, out=weight)
    with pytest.raises(hl.OutputError, match="overlap"):
        kernels.embedding(indices, weight, out=weight[:2])
    with pytest.raises(hl.ShapeError, match=r"dy must have shape \(2, 3\)"):
        kernels.embedding_backward(np.ones((3, 3), dtype), indices, 4)
    with pytest.raises(ValueError, match=r"padding_idx must lie in \[-4, 4\), got 4"):
        kernels.embedding_backward(np.ones((2, 3), dtype), indices, 4, padding_idx=4)
    with pytest.raises(hl.ShapeError, match="num_embeddings must not be negative"):
        kernels.embedding_backward(np.ones((2, 3), dtype), indices, -1)


def test_layer():
    layer = nn.Embedding(6, 4, padding_idx=-2)
    assert repr(layer) == "Embedding(6, 4, padding_idx=4)"
    assert not layer.weight.data[4].any()
    out = layer(hl.tensor([[4, 1], [1, 0]]))
    assert out.shape == (2, 2, 4)
    out.sum().backward()
    assert layer.weight.grad.data[:, 0].tolist() == [1, 2, 0, 0, 0, 0]
    table = hl.tensor(np.arange(6.0).reshape(3, 2))
    frozen = nn.Embedding.from_pretrained(table)
    assert not frozen.weight.requires_grad
    assert frozen(hl.tensor([2])).data.tolist() == [[4.0, 5.0]]
    with pytest.raises(ValueError, match="max_norm must not be negative"):
        nn.Embedding(3, 2, max_norm=-1.0)
    with pytest.raises(ValueError, match="sparse must be False"):
        nn.functional.embedding(hl.tensor([1]), table, sparse=True)
