"""max_pool2d and avg_pool2d, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import kernels
from reference import (
    LAYOUTS,
    assert_close,
    assert_gradient,
    assert_same,
    assert_same_bits,
    empty_with_layout,
    pool_windows,
    with_layout,
)

# kernel, stride, padding: plain, overlapping, gaps between windows, one-sided, large.
GEOMETRIES = (
    ((2, 2), (2, 2), (0, 0)),
    ((3, 3), (2, 2), (1, 1)),
    ((3, 3), (1, 1), (1, 1)),
    ((2, 3), (1, 2), (1, 0)),
    ((1, 1), (2, 3), (0, 0)),
    ((2, 2), (3, 4), (1, 1)),
    ((5, 4), (2, 3), (2, 2)),
)


def nchw(a, layout):
    return a if layout == "NCHW" else np.moveaxis(a, -1, 1)


def named(a, layout):
    """An NCHW array under the layout's names of the axes."""
    return a if layout == "NCHW" else np.moveaxis(a, 1, -1)


def is_channels_last(a, layout):
    return named(a, "NHWC") if layout == "NCHW" else a


def max_reference(x, kernel, stride, padding):
    windows = pool_windows(x, kernel, stride, padding, -np.inf)
    flat = windows.reshape(*windows.shape[:4], -1)
    return flat.max(-1), flat.argmax(-1)


def max_backward_reference(dy, taps, x_shape, kernel, stride, padding):
    dx = np.zeros(x_shape)
    for n, c, oh, ow in np.ndindex(dy.shape):
        kh, kw = divmod(int(taps[n, c, oh, ow]), kernel[1])
        dx[n, c, oh * stride[0] - padding[0] + kh, ow * stride[1] - padding[1] + kw] += dy[
            n, c, oh, ow
        ]
    return dx


def avg_reference(x, kernel, stride, padding, include):
    sums = pool_windows(x.astype(np.float64), kernel, stride, padding, 0.0).sum((-2, -1))
    inside = pool_windows(np.ones(x.shape), kernel, stride, padding, 0.0).sum((-2, -1))
    return sums / (kernel[0] * kernel[1] if include else inside)


def avg_backward_reference(dy, x_shape, kernel, stride, padding, include):
    dx = np.zeros(x_shape)
    for oh, ow in np.ndindex(dy.shape[2:]):
        top, left = oh * stride[0] - padding[0], ow * stride[1] - padding[1]
        rows = slice(max(top, 0), top + kernel[0])
        columns = slice(max(left, 0), left + kernel[1])
        part = dx[:, :, rows, columns]
        count = kernel[0] * kernel[1] if include else part.shape[2] * part.shape[3]
        part += (dy[:, :, oh, ow] / count)[:, :, None, None]
    return dx


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_max_pool(layout, geometry, level, dtype, rng):
    kernel, stride, padding = geometry
    options = {"stride": stride, "padding": padding, "layout": layout}
    for channels in (1, 3, 4, 8, 17, 35):
        # Few distinct values, so that equal maxima occur: the first one counts.
        x = rng.integers(-9, 9, (2, channels, 6, 7)).astype(dtype)
        expected, taps = max_reference(x, *geometry)
        y, indices = kernels.max_pool2d(named(x, layout), kernel, return_indices=True, **options)
        assert_same(nchw(y, layout), expected.astype(dtype))
        assert_same(nchw(indices, layout), taps.astype(np.uint8))
        assert is_channels_last(y, layout).flags.c_contiguous
        assert_same(kernels.max_pool2d(named(x, layout), kernel, **options), y)

        dy = rng.integers(-9, 9, expected.shape).astype(dtype)
        dx = kernels.max_pool2d_backward(
            named(dy, layout), indices, named(x, layout).shape, kernel_size=kernel, **options
        )
        assert_same(
            nchw(dx, layout),
            max_backward_reference(dy, taps, x.shape, *geometry).astype(dtype) + dtype(0),
        )


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_avg_pool(layout, geometry, include, level, dtype, rng):
    kernel, stride, padding = geometry
    options = {
        "stride": stride,
        "padding": padding,
        "layout": layout,
        "count_include_pad": include,
    }
    for channels in (1, 3, 16, 19):
        x = rng.standard_normal((2, channels, 6, 7)).astype(dtype)
        y = kernels.avg_pool2d(named(x, layout), kernel, **options)
        expected = avg_reference(x, *geometry, include)
        assert_close(nchw(y, layout), expected, 25)
        dy = rng.standard_normal(expected.shape).astype(dtype)
        dx = kernels.avg_pool2d_backward(
            named(dy, layout), named(x, layout).shape, kernel_size=kernel, **options
        )
        expected = avg_backward_reference(dy.astype(np.float64), x.shape, *geometry, include)
        assert_close(nchw(dx, layout), expected, 25)


# sizes, kernel, stride, padding, dilation, ceil_mode
WIDER = (
    ((6, 7), (2, 3), (2, 2), (0, 0), (2, 1), False),
    ((9, 8), (3, 2), (1, 2), (2, 1), (2, 3), False),
    ((6, 7), (2, 2), (2, 2), (0, 0), (1, 1), True),
    ((7, 6), (3, 3), (2, 2), (1, 1), (1, 1), True),
    ((5, 5), (2, 2), (3, 4), (1, 1), (1, 1), True),
    ((5, 8), (3, 2), (2, 3), (1, 0), (2, 2), True),
    ((1, 2), (2, 3), (2, 2), (0, 1), (1, 1), True),
)


def window_pixels(size, kernel, stride, padding, dilation, ceil_mode):
    """For each window along one axis: its taps inside as (tap, pixel), and its size with padding
    that counts."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    found = []
    for o in range(out):
        start = o * stride - padding
        taps = [(t, start + t * dilation) for t in range(kernel)]
        inside = [(t, i) for t, i in taps if 0 <= i < size]
        found.append((inside, min(start + kernel, size + padding) - start))
    return found


def adaptive_pixels(size, out):
    windows = [(o * size // out, -(-(o + 1) * size // out)) for o in range(out)]
    return [([(i - a, i) for i in range(a, b)], b - a) for a, b in windows]


def reference_by_windows(x, rows, columns, width, include=True):
    """Maxima with their taps, means, and the pixels of every window, window by window."""
    shape = (*x.shape[:2], len(rows), len(columns))
    maxima, taps, means = np.empty(shape), np.zeros(shape, int), np.empty(shape)
    for i, (inside_h, count_h) in enumerate(rows):
        for j, (inside_w, count_w) in enumerate(columns):
            at = [(th * width + tw, h, w) for th, h in inside_h for tw, w in inside_w]
            values = np.stack([x[:, :, h, w] for _, h, w in at], -1).astype(np.float64)
            maxima[:, :, i, j] = values.max(-1)
            taps[:, :, i, j] = np.array([tap for tap, _, _ in at])[values.argmax(-1)]
            count = count_h * count_w if include else len(at)
            means[:, :, i, j] = values.sum(-1) / count
    return maxima, taps, means


def spread_by_windows(dy, taps, x_shape, rows, columns, width, include=True):
    """The gradients of both, window by window."""
    maximum, mean = np.zeros(x_shape), np.zeros(x_shape)
    for i, (inside_h, count_h) in enumerate(rows):
        for j, (inside_w, count_w) in enumerate(columns):
            count = count_h * count_w if include else len(inside_h) * len(inside_w)
            for th, h in inside_h:
                for tw, w in inside_w:
                    hit = taps[:, :, i, j] == th * width + tw
                    maximum[:, :, h, w] += np.where(hit, dy[:, :, i, j], 0)
                    mean[:, :, h, w] += dy[:, :, i, j] / count
    return maximum, mean


@pytest.mark.parametrize("memory", ["NCHW", "channels-last"])
@pytest.mark.parametrize("geometry", WIDER, ids=str)
def test_dilation_and_ceil_mode(geometry, memory, level, dtype, rng):
    sizes, kernel, stride, padding, dilation, ceil_mode = geometry
    axes = list(zip(sizes, kernel, stride, padding, dilation))
    rows, columns = (window_pixels(*axis, ceil_mode) for axis in axes)
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    for channels in (1, 5, 16, 33):
        x = rng.integers(-9, 9, (2, channels, *sizes)).astype(dtype)
        if memory != "NCHW":
            x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        maxima, taps, _ = reference_by_windows(x, rows, columns, kernel[1])
        y, indices = kernels.max_pool2d(
            x, kernel, dilation=dilation, return_indices=True, **options
        )
        assert_same(y, maxima.astype(dtype))
        assert_same(indices, taps.astype(np.uint8))
        dy = rng.integers(-9, 9, y.shape).astype(dtype)
        expected, _ = spread_by_windows(dy, taps, x.shape, rows, columns, kernel[1])
        dx = kernels.max_pool2d_backward(
            dy, indices, x.shape, kernel_size=kernel, dilation=dilation, **options
        )
        assert_same(dx, expected.astype(dtype) + dtype(0))
        if dilation != (1, 1):
            continue
        for include in (True, False):
            both = {**options, "count_include_pad": include}
            means = reference_by_windows(x, rows, columns, kernel[1], include)[2]
            assert_close(kernels.avg_pool2d(x, kernel, **both), means, 25)
            expected = spread_by_windows(dy, taps, x.shape, rows, columns, kernel[1], include)[1]
            dx = kernels.avg_pool2d_backward(dy, x.shape, kernel_size=kernel, **both)
            assert_close(dx, expected, 25)


@pytest.mark.parametrize("output", [1, (2, 3), (7, 5), (9, 4), (6, 12)], ids=str)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_adaptive_pools(layout, output, level, dtype, rng):
    sizes = (7, 5)
    out = (output, output) if isinstance(output, int) else output
    rows, columns = (adaptive_pixels(n, k) for n, k in zip(sizes, out))
    width = max(len(inside) for inside, _ in columns)
    for channels in (1, 4, 19):
        x = rng.integers(-9, 9, (2, channels, *sizes)).astype(dtype)
        maxima, taps, means = reference_by_windows(x, rows, columns, width)
        held = named(x, layout)
        y, indices = kernels.adaptive_max_pool2d(held, output, layout=layout, return_indices=True)
        assert_same(nchw(y, layout), maxima.astype(dtype))
        assert_same(nchw(indices, layout), taps.astype(np.uint8))
        assert_same(kernels.adaptive_max_pool2d(held, output, layout=layout), y)
        average = kernels.adaptive_avg_pool2d(held, output, layout=layout)
        assert_close(nchw(average, layout), means, 35)
        dy = rng.integers(-9, 9, maxima.shape).astype(dtype)
        maximum, mean = spread_by_windows(dy, taps, x.shape, rows, columns, width)
        how = {"output_size": output, "layout": layout}
        dx = kernels.adaptive_max_pool2d_backward(named(dy, layout), indices, held.shape, **how)
        assert_same(nchw(dx, layout), maximum.astype(dtype) + dtype(0))
        dx = kernels.adaptive_avg_pool2d_backward(named(dy, layout), held.shape, **how)
        assert_close(nchw(dx, layout), mean, 35)


def test_random_windows_in_any_memory_order(level, rng):
    for _ in range(25):
        kernel, stride, dilation = (tuple(int(v) for v in rng.integers(1, 4, 2)) for _ in "ksd")
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
        padding = tuple(int(rng.integers(0, r // 2 + 1)) for r in reach)
        sizes = tuple(int(r + v) for r, v in zip(reach, rng.integers(0, 20, 2)))
        ceil_mode = bool(rng.integers(2))
        dtype = rng.choice([np.float32, np.float64])
        axes = list(zip(sizes, kernel, stride, padding, dilation))
        rows, columns = (window_pixels(*axis, ceil_mode) for axis in axes)
        if not all(inside for inside, _ in [*rows, *columns]):
            continue  # a window whose taps all lie on padding
        x = rng.standard_normal((2, int(rng.integers(1, 40)), *sizes)).astype(dtype)
        x = with_layout(x, str(rng.choice(LAYOUTS)))
        maxima, taps, _ = reference_by_windows(x, rows, columns, kernel[1])
        how = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
        y, indices = kernels.max_pool2d(x, kernel, return_indices=True, **how)
        assert_same(y, maxima.astype(dtype))
        assert_same(indices, taps.astype(np.uint8))
        dy = with_layout(rng.standard_normal(y.shape).astype(dtype), str(rng.choice(LAYOUTS)))
        expected, _ = spread_by_windows(dy, taps, x.shape, rows, columns, kernel[1])
        dx = kernels.max_pool2d_backward(dy, indices, x.shape, kernel_size=kernel, **how)
        assert_close(dx, expected, 9)


def test_windows_that_see_only_padding(level):
    x = np.ones((1, 2, 1, 1), np.float32)
    y, taps = kernels.max_pool2d(x, 2, stride=1, padding=2, dilation=3, return_indices=True)
    assert y.shape == (1, 2, 2, 2)
    assert np.isneginf(y[0, 0]).any()
    dx = kernels.max_pool2d_backward(
        np.ones_like(y), taps, x.shape, kernel_size=2, stride=1, padding=2, dilation=3
    )
    assert (dx == (y > 0).sum() / 2).all()


@pytest.mark.parametrize("memory", LAYOUTS)
def test_memory_layouts(memory, level, dtype, rng):
    x = rng.standard_normal((2, 18, 6, 5)).astype(dtype)
    y, indices = kernels.max_pool2d(x, 2, return_indices=True)
    average = kernels.avg_pool2d(x, 2)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx = kernels.max_pool2d_backward(dy, indices, x.shape, kernel_size=2)
    dx_average = kernels.avg_pool2d_backward(dy, x.shape, kernel_size=2)
    for layout in ("NCHW", "NHWC"):
        x_held = with_layout(np.ascontiguousarray(named(x, layout)), memory)
        dy_held = with_layout(np.ascontiguousarray(named(dy, layout)), memory)
        taps_held = with_layout(np.ascontiguousarray(named(indices, layout)), memory)
        out = empty_with_layout(dy_held.shape, dtype, memory)
        assert kernels.max_pool2d(x_held, 2, layout=layout, out=out) is out
        assert_same(out, np.ascontiguousarray(named(y, layout)))
        assert kernels.avg_pool2d(x_held, 2, layout=layout, out=out) is out
        assert_same(out, np.ascontiguousarray(named(average, layout)))
        out = empty_with_layout(x_held.shape, dtype, memory)
        kernels.max_pool2d_backward(
            dy_held, taps_held, x_held.shape, kernel_size=2, layout=layout, out=out
        )
        assert_same(out, np.ascontiguousarray(named(dx, layout)))
        kernels.avg_pool2d_backward(dy_held, x_held.shape, kernel_size=2, layout=layout, out=out)
        assert_same(out, np.ascontiguousarray(named(dx_average, layout)))


def test_nan_and_infinity(level, dtype):
    x = np.full((1, 2, 4, 4), -np.inf, dtype)
    y, taps = kernels.max_pool2d(x, 3, stride=1, padding=1, return_indices=True)
    assert_same(np.ascontiguousarray(y), x)
    # Nothing beats -inf: the first tap inside the image.
    expected = [[4, 3, 3, 3], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert taps[0, 0].tolist() == expected
    x[:] = 1
    x[0, 0, 1, 1] = np.nan
    x[0, 0, 1, 2] = np.nan
    x[0, 1, 0, 0] = np.inf
    y, taps = kernels.max_pool2d(x, 2, stride=1, return_indices=True)
    assert np.isnan(y[0, 0]).tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert taps[0, 0, 0].tolist() == [3, 3, 2]  # the last NaN of a window
    assert y[0, 1].tolist() == [[np.inf, 1, 1], [1, 1, 1], [1, 1, 1]]
    average = kernels.avg_pool2d(x, 2)
    assert np.isnan(average[0, 0]).tolist() == [[True, True], [False, False]]
    assert average[0, 1, 0, 0] == np.inf


def test_windows_of_more_taps_than_a_byte_holds(level, dtype, rng):
    x = rng.standard_normal((1, 3, 40, 300)).astype(dtype)
    for kernel, index_type in (((16, 16), np.uint8), ((17, 16), np.uint16)):
        expected, taps = max_reference(x, kernel, (9, 50), (0, 0))
        y, indices = kernels.max_pool2d(x, kernel, stride=(9, 50), return_indices=True)
        assert_same(y, expected)
        assert_same(indices, taps.astype(index_type))
        dy = rng.standard_normal(y.shape).astype(dtype)
        dx = kernels.max_pool2d_backward(dy, indices, x.shape, kernel_size=kernel, stride=(9, 50))
        expected = max_backward_reference(dy, taps, x.shape, kernel, (9, 50), (0, 0))
        assert_close(dx, expected, 2)
    x = rng.standard_normal((1, 1, 257, 256)).astype(dtype)
    y, indices = kernels.max_pool2d(x, (257, 256), return_indices=True)
    assert indices.dtype == np.int32
    assert int(indices.item()) == int(x.argmax())
    dx = kernels.max_pool2d_backward(y, indices, x.shape, kernel_size=(257, 256))
    assert np.flatnonzero(dx).tolist() == [x.argmax()]


def test_same_bits_for_any_number_of_threads(rng):
    x = rng.standard_normal((4, 24, 33, 35)).astype(np.float32)
    options = {"stride": 2, "padding": 1}
    y, indices = kernels.max_pool2d(x, 3, return_indices=True, **options)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    assert_same_bits(lambda: kernels.max_pool2d(x, 3, return_indices=True, **options))
    assert_same_bits(
        lambda: kernels.max_pool2d_backward(dy, indices, x.shape, kernel_size=3, **options)
    )
    assert_same_bits(lambda: kernels.avg_pool2d(x, 3, **options))
    assert_same_bits(lambda: kernels.adaptive_avg_pool2d(x, (5, 6)))
    assert_same_bits(lambda: kernels.avg_pool2d_backward(dy, x.shape, kernel_size=3, **options))


def test_gradients(level, rng):
    x = rng.permutation(90).astype(np.float64).reshape(1, 3, 5, 6)  # no ties within a step
    options = {"stride": (1, 2), "padding": 1}
    y, indices = kernels.max_pool2d(x, 3, return_indices=True, **options)
    dy = rng.standard_normal(y.shape)
    dx = kernels.max_pool2d_backward(dy, indices, x.shape, kernel_size=3, **options)
    assert_gradient(dx, lambda: kernels.max_pool2d(x, 3, **options), x, dy)
    x = rng.standard_normal(x.shape)
    for include in (True, False):
        both = {**options, "count_include_pad": include}
        dx = kernels.avg_pool2d_backward(dy, x.shape, kernel_size=3, **both)
        assert_gradient(dx, lambda both=both: kernels.avg_pool2d(x, 3, **both), x, dy)


def test_errors(dtype):
    x = np.ones((2, 3, 4, 4), dtype)
    for op in (kernels.max_pool2d, kernels.avg_pool2d):
        with pytest.raises(hl.ShapeError, match=r"x must have 4 axes \(n, c, h, w\), got 3"):
            op(x[0], 2)
        with pytest.raises(hl.ShapeError, match="kernel must fit the padded image, got kernel 5"):
            op(x, 5)
        with pytest.raises(hl.ShapeError, match="padding must be at most half the kernel"):
            op(x, 2, padding=2)
        with pytest.raises(hl.ShapeError, match="must not be empty"):
            op(x[:0], 2)
        with pytest.raises(ValueError, match="kernel_size"):
            op(x, 0)
        with pytest.raises(ValueError, match="stride"):
            op(x, 2, stride=0)
        with pytest.raises(ValueError, match="layout must be"):
            op(x, 2, layout="CHWN")
        with pytest.raises(hl.ShapeError, match="out must have shape"):
            op(x, 2, out=np.ones((2, 3, 4, 4), dtype))
        with pytest.raises(hl.OutputError, match="overlap"):
            op(x, 1, out=x)
        with pytest.raises(hl.DTypeError):
            op(x.astype(np.int32), 2)
    y, indices = kernels.max_pool2d(x, 2, return_indices=True)
    with pytest.raises(hl.ShapeError, match=r"dy must have shape \(2, 3, 2, 2\), got"):
        kernels.max_pool2d_backward(x, indices, x.shape, kernel_size=2)
    with pytest.raises(hl.DTypeError, match="indices must be the uint8 taps"):
        kernels.max_pool2d_backward(y, indices.astype(np.int64), x.shape, kernel_size=2)
    with pytest.raises(hl.DTypeError, match="indices must be the uint8 taps"):
        kernels.max_pool2d_backward(y, None, x.shape, kernel_size=2)
    with pytest.raises(hl.ShapeError, match="indices must have shape"):
        kernels.max_pool2d_backward(y, indices[:1], x.shape, kernel_size=2)
    with pytest.raises(hl.ShapeError, match="x_shape"):
        kernels.avg_pool2d_backward(y, (2, 3, -4, 4), kernel_size=2)
    with pytest.raises(hl.ShapeError):
        kernels.avg_pool2d_backward(y, (2**40, 2**40, 4, 4), kernel_size=2)


def test_indices_from_elsewhere_stay_inside(level, dtype):
    wild = np.full((1, 5, 2, 2), 255, np.uint8)
    dx = kernels.max_pool2d_backward(
        np.ones((1, 5, 2, 2), dtype), wild, (1, 5, 4, 4), kernel_size=2
    )
    assert not dx.any()
