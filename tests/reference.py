"""Float64 references, the tolerance table, and arrays of every memory layout.

`from reference import assert_close, with_layout, ...` works from any test file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# ------------------------------------------------------------------------------------------
# Tolerances: |actual - expected| <= factor * depth * eps * scale. `depth` is the number of
# roundings one after the other (terms of a sum, steps of a formula), `scale` the size of what was
# rounded.
# kind: (factor, reason)
TOLERANCES: dict[str, tuple[float, str]] = {
    "exact": (0.0, "moves, comparisons, selections: nothing is rounded"),
    "sum": (1.0, "a chain of depth additions errs by at most depth*eps/2 of the magnitudes added"),
    "product": (2.0, "without a fused multiply-add every term rounds once more than in a sum"),
    "function": (
        8.0,
        "exp, log, tanh, erf are within 2 ULP in f32 and 4 in f64; one formula around",
    ),
    "composed": (32.0, "several functions and a reduction, each amplifying the one before"),
}


def eps(dtype: np.typing.DTypeLike) -> float:
    return float(np.finfo(dtype).eps)


def assert_close(
    actual: np.ndarray | float,
    expected: np.ndarray | float,
    depth: int = 1,
    *,
    kind: str = "sum",
    scale: np.ndarray | float | None = None,
    dtype: np.typing.DTypeLike | None = None,
    name: str = "result",
) -> None:
    """Asserts the shape and that every element is within factor * depth * eps * scale.

    `scale` is a number or an array of `expected`'s shape: the size of the summed terms. By
    default the largest finite |expected|, and at least 1, so pass it where the data is far from 1.
    NaN matches NaN, an infinity the same infinity. `eps` is that of `actual`'s dtype (or `dtype`).
    """
    actual = np.asarray(actual)
    expected = np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, (
        f"{name}: shape {actual.shape}, expected {expected.shape}"
    )
    if actual.size == 0:
        return
    unit = eps(dtype if dtype is not None else actual.dtype)
    finite = np.isfinite(expected)
    if scale is None:
        scale = max(1.0, float(np.max(np.abs(expected), initial=0.0, where=finite)))
    bound = np.broadcast_to(TOLERANCES[kind][0] * max(depth, 1) * unit * scale, expected.shape)
    got = actual.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        good = np.abs(got - expected) <= bound
    good = np.where(finite, good, (got == expected) | (np.isnan(got) & np.isnan(expected)))
    if not good.all():
        where = np.unravel_index(int(np.argmin(good)), good.shape) if good.ndim else ()
        with np.errstate(invalid="ignore"):
            error = np.abs(got - expected)
        raise AssertionError(
            f"{name}: {np.count_nonzero(~good)} of {good.size} elements off; first at "
            f"{tuple(int(i) for i in where)}: {got[where]!r}, expected {expected[where]!r}, "
            f"error {error[where]:.3g}, allowed {bound[where]:.3g} ({kind}, depth {depth})"
        )


def ulp_error(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of `actual`'s dtype; `expected` is wider. 0 where both
    are NaN or the same infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = expected.astype(actual.dtype)
        spacing = np.spacing(np.abs(rounded)).astype(np.float64)
        error = np.abs(actual.astype(np.float64) - expected.astype(np.float64)) / spacing
    same = (actual == rounded) | (np.isnan(actual) & np.isnan(expected))
    return np.where(same & ~np.isfinite(expected.astype(actual.dtype)), 0.0, error)


def assert_same(actual: np.ndarray, expected: np.ndarray, name: str = "result") -> None:
    """Same dtype, shape and bits (so -0 differs from 0 and NaN equals itself)."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"{name}: {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"{name}: {actual.shape}, expected {expected.shape}"
    assert actual.tobytes() == expected.tobytes(), f"{name}: bits differ"


def assert_same_bits(call: Callable[[], object], threads: Sequence[int] = (1, 2, 3, 8)) -> None:
    """Asserts that call() (an array or a tuple of them) is the same bits for each thread count."""
    import hotloop as hl

    def bits(result: object) -> tuple[bytes, ...]:
        parts = result if isinstance(result, tuple) else (result,)
        return tuple(np.asarray(part).tobytes() for part in parts)

    before = hl.get_num_threads()
    try:
        hl.set_num_threads(threads[0])
        first = bits(call())
        for count in threads[1:]:
            hl.set_num_threads(count)
            assert bits(call()) == first, f"{count} threads give other bits than {threads[0]}"
    finally:
        hl.set_num_threads(before)


def numerical_gradient(
    forward: Callable[[], np.ndarray | float], x: np.ndarray, dy: np.ndarray | float = 1.0
) -> np.ndarray:
    """Central differences of sum(forward() * dy) for each element of x (float64), which is changed
    in place and restored. `forward` reads x."""
    assert x.dtype == np.float64
    step = 6e-6  # cube root of eps: truncation step**2 and rounding eps/step are both about 1e-10
    gradient = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + step
        above = float(np.sum(np.asarray(forward()) * dy))
        x[i] = kept - step
        below = float(np.sum(np.asarray(forward()) * dy))
        x[i] = kept
        gradient[i] = (above - below) / (2 * step)
    return gradient


def assert_gradient(
    analytic: np.ndarray,
    forward: Callable[[], np.ndarray | float],
    x: np.ndarray,
    dy: np.ndarray | float = 1.0,
    *,
    name: str = "gradient",
) -> None:
    """Asserts analytic = d sum(forward() * dy) / dx within 1e-6 of the largest element."""
    expected = numerical_gradient(forward, x, dy)
    assert analytic.shape == x.shape, f"{name}: shape {analytic.shape}, expected {x.shape}"
    error = float(np.max(np.abs(analytic - expected), initial=0.0))
    bound = 1e-6 * max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    assert error <= bound, f"{name}: off by {error:.3g}, allowed {bound:.3g}"


# ------------------------------------------------------------------------------------------
# Memory layouts. with_layout(a, name) holds a's values; empty_with_layout is for `out`.

LAYOUTS = ("contiguous", "fortran", "strided", "negative", "misaligned", "padded")


def empty_with_layout(
    shape: Sequence[int] | int, dtype: np.typing.DTypeLike, layout: str
) -> np.ndarray:
    """An array of that shape filled with 77s, its memory laid out as named. Around it lie 77s too.

    contiguous: C order; fortran: the first axis is dense; strided: every third element of each row;
    negative: every axis backwards; misaligned: C order, one element off a 64-byte boundary;
    padded: dense rows that lie apart.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not shape or layout == "contiguous":
        return np.full(shape, 77, dtype)
    if layout == "fortran":
        return np.full(shape[::-1], 77, dtype).transpose()
    if layout == "strided":
        return np.full((*shape[:-1], 3 * shape[-1] + 1), 77, dtype)[..., 1 : 3 * shape[-1] + 1 : 3]
    if layout == "negative":
        return np.full(shape, 77, dtype)[tuple(slice(None, None, -1) for _ in shape)]
    if layout == "misaligned":
        item = np.dtype(dtype).itemsize
        flat = np.full(int(np.prod(shape)) + 128 // item, 77, dtype)
        first = (-flat.ctypes.data % 64) // item + 1
        return flat[first : first + int(np.prod(shape))].reshape(shape)
    if layout == "padded":
        return np.full((*shape[:-1], shape[-1] + 3), 77, dtype)[..., 2 : shape[-1] + 2]
    raise ValueError(f"unknown layout {layout!r}; one of {LAYOUTS}")


def with_layout(a: np.ndarray, layout: str) -> np.ndarray:
    """A copy of `a` with the same values and dtype, in the named memory layout."""
    copy = empty_with_layout(a.shape, a.dtype, layout)
    copy[...] = a
    return copy


def guarded(shape: Sequence[int] | int, dtype: np.typing.DTypeLike) -> tuple[np.ndarray, Callable]:
    """A contiguous array in the middle of 77s, and a check that nobody wrote outside of it."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size, margin = int(np.prod(shape)), 64
    flat = np.full(size + 2 * margin, 77, dtype)

    def check() -> None:
        assert (flat[:margin] == 77).all(), "written before the array"
        assert (flat[margin + size :] == 77).all(), "written behind the array"

    return flat[margin : margin + size].reshape(shape), check


# Sizes around the lane counts (4, 8, 16) and unrolled blocks of every level, and the empty one.
EDGE_SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129)
SPECIAL_VALUES = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3e38, -3e38)


# ------------------------------------------------------------------------------------------
# References, all in float64.


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    x = x.astype(np.float64)
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    x = x.astype(np.float64)
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each row, and its gradient (softmax minus one at the label)."""
    rows = np.arange(len(labels))
    gradient = softmax(logits)
    gradient[rows, labels] -= 1.0
    return -log_softmax(logits)[rows, labels], gradient


def pool_windows(
    x: np.ndarray,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    fill: float,
) -> np.ndarray:
    """Windows of x (n, c, h, w), padded with `fill`: (n, c, out_h, out_w, kernel_h, kernel_w)."""
    (kh, kw), (sh, sw), (ph, pw) = kernel, stride, padding
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(2, 3))
    return view[:, :, ::sh, ::sw]


def _conv_windows(
    x: np.ndarray, w_shape: Sequence[int], how: dict[str, tuple[int, int] | int]
) -> np.ndarray:
    """A writable view of padded x (n, c, h, w): (n, groups, c / groups, out_h, out_w, kh, kw)."""
    (sh, sw), (dh, dw), groups = how["stride"], how["dilation"], int(how["groups"])
    n, c, h, w = x.shape
    kh, kw = w_shape[2:]
    shape = (n, groups, c // groups)
    shape += ((h - dh * (kh - 1) - 1) // sh + 1, (w - dw * (kw - 1) - 1) // sw + 1, kh, kw)
    a, b, row, col = x.strides
    strides = (a, b * (c // groups), b, row * sh, col * sw, row * dh, col * dw)
    return np.lib.stride_tricks.as_strided(x, shape, strides)


def _conv_how(stride=1, padding=0, dilation=1, groups=1):
    pairs = {"stride": stride, "padding": padding, "dilation": dilation}
    how = {name: (v, v) if isinstance(v, int) else tuple(v) for name, v in pairs.items()}
    return how | {"groups": groups}


def _conv_padded(x: np.ndarray, how: dict) -> np.ndarray:
    ph, pw = how["padding"]
    return np.pad(x.astype(np.float64), ((0, 0), (0, 0), (ph, ph), (pw, pw)))


def conv2d(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, **settings) -> np.ndarray:
    """x (n, c, h, w), w (o, c / groups, kh, kw), b (o,)."""
    how = _conv_how(**settings)
    windows = _conv_windows(_conv_padded(x, how), w.shape, how)
    grouped = w.astype(np.float64).reshape(how["groups"], -1, *w.shape[1:])
    y = np.einsum("ngchwkl,gockl->ngohw", windows, grouped, optimize=True)
    y = y.reshape(y.shape[0], -1, *y.shape[3:])
    return y if b is None else y + b.astype(np.float64)[:, None, None]


def to_nhwc(image: np.ndarray) -> np.ndarray:
    """An image (n, c, h, w) in memory that goes n, h, w, c."""
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def to_hwio(w: np.ndarray) -> np.ndarray:
    """Weights (o, i, kh, kw) in memory that goes kh, kw, i, o."""
    return np.ascontiguousarray(w.transpose(2, 3, 1, 0))


def conv2d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: Sequence[int], **settings
) -> np.ndarray:
    how = _conv_how(**settings)
    dx = _conv_padded(np.zeros(x_shape), how)
    windows = _conv_windows(dx, w.shape, how)
    grouped = w.astype(np.float64).reshape(how["groups"], -1, *w.shape[1:])
    dy = dy.astype(np.float64).reshape(dy.shape[0], how["groups"], -1, *dy.shape[2:])
    for tap in np.ndindex(w.shape[2:]):  # the pixels of one tap do not overlap
        view = windows[..., tap[0], tap[1]]
        view += np.einsum("ngohw,goc->ngchw", dy, grouped[..., tap[0], tap[1]], optimize=True)
    (ph, pw), (h, width) = how["padding"], x_shape[2:]
    return dx[:, :, ph : ph + h, pw : pw + width]


def conv2d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: Sequence[int], **settings
) -> np.ndarray:
    how = _conv_how(**settings)
    windows = _conv_windows(_conv_padded(x, how), w_shape, how)
    dy = dy.astype(np.float64).reshape(dy.shape[0], how["groups"], -1, *dy.shape[2:])
    return np.einsum("ngohw,ngchwkl->gockl", dy, windows, optimize=True).reshape(w_shape)
