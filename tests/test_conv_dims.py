"""Convolutions of signals and volumes, and transposed ones, against float64 references."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
from hotloop import kernels


def tap_views(x, w_shape, how):
    """Of padded x (n, c, ...): for every tap the pixels (n, groups, c, ...) that it multiplies."""
    dims = len(w_shape) - 2
    sizes = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[2:], w_shape[2:], how["stride"], how["dilation"])
    ]
    grouped = x.reshape(x.shape[0], how["groups"], -1, *x.shape[2:])
    for tap in np.ndindex(*w_shape[2:]):
        at = [
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, s, n in zip(tap, how["dilation"], how["stride"], sizes)
        ]
        assert len(at) == dims
        yield tap, grouped[(..., *at)]


def conv_nd(x, w, b, dy, how):
    """y, dx and dw in float64, tap by tap."""
    x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
    border = [(0, 0), (0, 0), *((p, p) for p in how["padding"])]
    x, dx = np.pad(x, border), np.pad(np.zeros(x.shape), border)
    groups = how["groups"]
    kernels_of = w.reshape(groups, -1, *w.shape[1:])
    y, dw = 0.0, np.zeros(kernels_of.shape)
    parts = dy.reshape(dy.shape[0], groups, -1, *dy.shape[2:])
    for (tap, view), (_, into) in zip(tap_views(x, w.shape, how), tap_views(dx, w.shape, how)):
        of = kernels_of[(slice(None), slice(None), slice(None), *tap)]
        y = y + np.einsum("ngc...,goc->ngo...", view, of)
        into += np.einsum("ngo...,goc->ngc...", parts, of)
        dw[(slice(None), slice(None), slice(None), *tap)] = np.einsum(
            "ngcp,ngop->goc",
            view.reshape(*view.shape[:3], -1),
            parts.reshape(*parts.shape[:3], -1),
        )
    y = y.reshape(dy.shape) + b.astype(np.float64).reshape(-1, *(1,) * (dy.ndim - 2))
    inside = tuple(slice(p, n - p) for p, n in zip(how["padding"], x.shape[2:]))
    return y, dx[(slice(None), slice(None), *inside)], dw.reshape(w.shape)


def result_sizes(sizes, kernel, how):
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(sizes, kernel, how["stride"], how["padding"], how["dilation"])
    )


# sizes, kernel, stride, padding, dilation
OTHER_DIMS = [
    ((17,), (3,), (1,), (1,), (1,)),
    ((30,), (4,), (3,), (2,), (2,)),
    ((1,), (1,), (2,), (0,), (1,)),
    ((3, 4, 5), (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
    ((4, 5, 6), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((6, 5, 7), (2, 3, 3), (2, 2, 1), (1, 0, 2), (1, 1, 1)),
    ((5, 4, 6), (3, 1, 2), (1, 2, 3), (2, 0, 1), (2, 1, 3)),
    ((2, 3, 3), (3, 3, 3), (3, 1, 2), (2, 1, 1), (1, 1, 1)),
    ((1, 6, 5), (1, 3, 3), (2, 1, 2), (2, 1, 1), (1, 1, 1)),  # planes of padding alone
    ((7, 6, 7), (3, 3, 3), (3, 2, 2), (0, 1, 0), (2, 1, 2)),
    ((4, 5, 6), (1, 3, 3), (2, 1, 1), (0, 1, 1), (1, 1, 1)),  # phases without planes of taps
]


@pytest.mark.parametrize(
    "channels", [(3, 5, 1), (2, 33, 1), (8, 20, 1), (6, 4, 2), (5, 5, 5)], ids=str
)
@pytest.mark.parametrize("geometry", OTHER_DIMS, ids=str)
def test_signals_and_volumes(geometry, channels, dtype, rng, level):
    sizes, kernel, stride, padding, dilation = geometry
    c, o, groups = channels
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x = rng.uniform(-1, 1, (2, c, *sizes)).astype(dtype)
    w = rng.uniform(-1, 1, (o, c // groups, *kernel)).astype(dtype)
    b = rng.uniform(-1, 1, o).astype(dtype)
    dy = rng.uniform(-1, 1, (2, o, *result_sizes(sizes, kernel, how))).astype(dtype)
    y, dx, dw = conv_nd(x, w, b, dy, how)
    dims = len(sizes)
    forward, backward_input, backward_weight, transpose = (
        getattr(kernels, name.format(dims))
        for name in (
            "conv{}d", "conv{}d_backward_input", "conv{}d_backward_weight", "conv_transpose{}d",
        )
    )  # fmt: skip
    close = {"kind": "product", "scale": 1}
    ref.assert_close(forward(x, w, b, **how), y, w[0].size + 1, **close)
    ref.assert_close(backward_input(dy, w, x.shape, **how), dx, w.size // w.shape[1], **close)
    ref.assert_close(backward_weight(dy, x, w.shape, **how), dw, dy.size // o, **close)
    # The transposed convolution is the gradient, plus bias.
    extra = tuple(
        (n + 2 * p - d * (k - 1) - 1) % s
        for n, k, s, p, d in zip(sizes, kernel, stride, padding, dilation)
    )
    bias = rng.uniform(-1, 1, c).astype(dtype)
    up = transpose(dy, w, bias, output_padding=extra, **how)
    expected = dx + bias.astype(np.float64).reshape(-1, *(1,) * dims)
    ref.assert_close(up, expected, w.size // w.shape[1] + 1, **close)
    last = {1: "NLC", 3: "NDHWC"}[dims]
    moved = forward(np.moveaxis(x, 1, -1), np.moveaxis(w, (0, 1), (-1, -2)), b, layout=last, **how)
    ref.assert_same(np.moveaxis(moved, -1, 1), forward(x, w, b, **how))


def test_signals_are_images_of_one_row(rng):
    x, w = rng.standard_normal((2, 5, 30)), rng.standard_normal((7, 5, 3))
    one = kernels.conv1d(x, w, stride=2, padding=(1,))
    two = kernels.conv2d(x[:, :, None], w[:, :, None], stride=(1, 2), padding=(0, 1))
    ref.assert_same(one, two[:, :, 0])


def test_transposed_activation_and_out(rng, level):
    x = rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
    w = rng.standard_normal((5, 20, 3, 3)).astype(np.float32)
    b = rng.standard_normal(20).astype(np.float32)
    how = {"stride": 2, "padding": 1, "output_padding": 1}
    plain = kernels.conv_transpose2d(x, w, b, **how)
    assert plain.shape == (2, 20, 8, 6)
    out = np.full(plain.shape, 7, np.float32)
    assert kernels.conv_transpose2d(x, w, b, activation="relu", out=out, **how) is out
    ref.assert_same(out, np.maximum(plain, 0))
    last = kernels.conv_transpose2d(ref.to_nhwc(x), ref.to_hwio(w), b, layout="NHWC", **how)
    ref.assert_same(ref.to_nhwc(plain), last)


def test_volumes_do_not_depend_on_threads(rng):
    x = rng.uniform(-1, 1, (2, 12, 9, 20, 20)).astype(np.float32)
    w = rng.uniform(-1, 1, (18, 12, 3, 3, 3)).astype(np.float32)
    dy = kernels.conv3d(x, w, padding=1)
    ref.assert_same_bits(
        lambda: (
            kernels.conv3d(x, w, padding=1),
            kernels.conv3d_backward_input(dy, w, x.shape, padding=1),
            kernels.conv3d_backward_weight(dy, x, w.shape, padding=1),
        )
    )
