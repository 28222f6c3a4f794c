"""What convolutions refuse, and in which words."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import kernels

X = np.zeros((2, 4, 5, 6), np.float32)
W = np.zeros((8, 4, 3, 3), np.float32)
DY = np.zeros((2, 8, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernels.conv2d(X[0], W), hl.ShapeError, r"conv2d: x must have 4 axes \(n, c, h, "),
        (lambda: kernels.conv2d(X[:0], W), hl.ShapeError, r"x .* must not be empty, got .*\(0, 4,"),
        (lambda: kernels.conv2d(X, W[:, :, :0]), hl.ShapeError, r"w .* must not be empty"),
        (lambda: kernels.conv2d(X, W[:, :3]), hl.ShapeError, r"w .* must have 4 input channels"),
        (
            lambda: kernels.conv2d(X, W, layout="NHWC"),
            hl.ShapeError,
            r'; under layout="NCHW" they w',
        ),
        (
            lambda: kernels.conv2d(X, W, groups=3),
            hl.ShapeError,
            r"groups must divide .* got 3 groups for 4 input and 8 output channels; "
            r"what would fit: 2 or 4 groups, or 3 input and 9 output channels",
        ),
        (lambda: kernels.conv2d(X, W, groups=9), hl.ShapeError, r"fit: 4 groups, or 9 inp"),
        (
            lambda: kernels.conv2d(X.transpose(0, 2, 3, 1), W.transpose(2, 3, 1, 0), groups=2),
            hl.ShapeError,
            r"got 2 groups for 5 input and 3 output .*fit: 1 groups, or 6 input and 4 output",
        ),
        (
            lambda: kernels.conv2d(X.transpose(0, 2, 3, 1), W.transpose(2, 3, 1, 0)),
            hl.ShapeError,
            r'under layout="NCHW"; under layout="NHWC" they would fit',
        ),
        (lambda: kernels.conv2d(X, W[:, :3]), hl.ShapeError, r"would fit: \(8, 4, 3, 3\)"),
        (
            lambda: kernels.conv2d(X, np.zeros((8, 4, 9, 3), np.float32), padding=1),
            hl.ShapeError,
            r"along h, got 9 .* over 7 .*; what would fit: padding 2, a kernel of 7 taps or an "
            r"input of size 7",
        ),
        (lambda: kernels.conv2d(X, W, groups=0), hl.ShapeError, r"groups must be at least 1"),
        (lambda: kernels.conv2d(X, W, groups=(1, 1)), hl.DTypeError, r"groups must be an integer"),
        (lambda: kernels.conv2d(X, W, stride=0), hl.ShapeError, r"stride must be at least 1"),
        (lambda: kernels.conv2d(X, W, padding=-1), hl.ShapeError, r"padding must be at least 0"),
        (lambda: kernels.conv2d(X, W, dilation=0), hl.ShapeError, r"dilation must be at least 1"),
        (lambda: kernels.conv2d(X, W, dilation=3), hl.ShapeError, r"along h, got 7 \(3 taps, dila"),
        (lambda: kernels.conv2d(X, W, stride=1.5), hl.DTypeError, r"stride must be an integer"),
        (lambda: kernels.conv2d(X, W, stride=(1, 2, 3)), hl.ShapeError, r"stride must be an int"),
        (lambda: kernels.conv2d(X, W, padding=2**31), hl.ShapeError, r"\d+"),
        (lambda: kernels.conv2d(X, W, np.zeros(7, np.float32)), hl.ShapeError, r"b must .* \(8,\)"),
        (lambda: kernels.conv2d(X, W.astype(float)), hl.DTypeError, r"x and w must have the same"),
        (lambda: kernels.conv2d(X, W, np.zeros(8)), hl.DTypeError, r"x and b must have the same"),
        (
            lambda: kernels.conv2d(X, W, layout="CHWN"),
            ValueError,
            r'layout must be "NCHW" or "NHWC',
        ),
        (
            lambda: kernels.conv2d(X, W, activation="rely"),
            ValueError,
            r"activation must be None or",
        ),
        (lambda: kernels.conv2d(X.tolist(), W), hl.DTypeError, r"x must be a numpy.ndarray"),
        (lambda: kernels.conv2d(X, W, out=DY[:1]), hl.ShapeError, r"out must have shape \(2, 8, 3"),
        (
            lambda: kernels.conv2d_backward_input(DY, W, (2, 4, 6, 6)),
            hl.ShapeError,
            r"conv2d_backward_input: dy must have shape \(2, 8, 4, 4\), got \(2, 8, 3, 4\)",
        ),
        (
            lambda: kernels.conv2d_backward_input(DY, W, (2, -4, 5, 6)),
            hl.ShapeError,
            r"x_shape must not hold negative sizes",
        ),
        (
            lambda: kernels.conv2d_backward_input(DY, W, X),
            hl.DTypeError,
            r"x_shape must be a tuple of sizes, got numpy.ndarray",
        ),
        (
            lambda: kernels.conv2d_backward_weight(DY, X, (8, 4, 3)),
            hl.ShapeError,
            r"conv2d_backward_weight: w_shape must have 4 axes",
        ),
        (
            lambda: kernels.conv2d_backward_weight(DY, X, (2**61, 4, 3, 3)),
            hl.ShapeError,
            r"conv2d_backward_weight: ",
        ),
        (
            lambda: kernels.conv2d_backward_weight(DY, X.astype(float), W.shape),
            hl.DTypeError,
            r"dy and x must have the same dtype",
        ),
    ],
)
def test_error_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_channels_last_images_are_recognized():
    x, w = np.zeros((2, 8, 9, 3), np.float32), np.zeros((16, 3, 5, 5), np.float32)
    with pytest.raises(hl.ShapeError, match=r"x\.transpose\(0, 3, 1, 2\) \(a tensor: x\.permute"):
        kernels.conv2d(x, w)
    with pytest.raises(hl.ShapeError, match=r"x\.transpose\(0, 2, 3, 1\)"):
        kernels.conv2d(x.transpose(0, 3, 1, 2), w.transpose(2, 3, 1, 0), layout="NHWC")
    both = np.zeros((3, 3, 3, 3), np.float32)
    with pytest.raises(hl.ShapeError, match=r'"NHWC" they would fit, and so would x\.transpose'):
        kernels.conv2d(x, both)
    for layout, seen in (("NCHW", x.transpose(0, 3, 1, 2)), ("NHWC", x)):
        kernel = w if layout == "NCHW" else w.transpose(2, 3, 1, 0)
        assert kernels.conv2d(seen, kernel, layout=layout).size == 2 * 16 * 4 * 5


def test_out_must_be_apart_and_writable():
    x = np.ones((1, 2, 4, 4), np.float32)
    w = np.ones((2, 2, 1, 1), np.float32)
    with pytest.raises(hl.OutputError, match=r"conv2d: out must not overlap x"):
        kernels.conv2d(x, w, out=x)
    with pytest.raises(hl.OutputError, match=r"out must not overlap dy"):
        kernels.conv2d_backward_input(x, w, x.shape, out=x)
    with pytest.raises(hl.OutputError, match=r"out must not overlap"):
        kernels.conv2d_backward_weight(x, x, (2, 2, 1, 1), out=x.ravel()[:4].reshape(2, 2, 1, 1))
    frozen = np.ones((1, 2, 4, 4), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(hl.OutputError, match=r"out must be writable"):
        kernels.conv2d(x, w, out=frozen)


def test_a_failed_call_leaves_out_alone():
    out = np.full((2, 8, 3, 4), 7, np.float32)
    for bad in ({"stride": 0}, {"groups": 3}, {"activation": "none"}, {"layout": "x"}):
        with pytest.raises(ValueError):
            kernels.conv2d(X, W, out=out, **bad)
    assert (out == 7).all()


def test_sizes_that_no_memory_holds():
    w = np.ones((1, 1, 1, 1), np.float32)
    x = np.ones((1, 1, 1, 1), np.float32)
    with pytest.raises((hl.ShapeError, MemoryError)):
        kernels.conv2d(x, w, padding=2**31)
    with pytest.raises((hl.ShapeError, MemoryError)):
        kernels.conv2d_backward_input(x, w, (2**62, 2**62, 1, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.conv1d(X, W), r"conv1d: x must have 3 axes \(n, c, l\), got 4"),
        (lambda: kernels.conv3d(X, W), r"conv3d: x must have 5 axes \(n, c, d, h, w\), got 4"),
        (
            lambda: kernels.conv1d(X[0], W[0], stride=(1, 1)),
            r"conv1d: stride must be an integer or 1 of them, got 2 values",
        ),
        (lambda: kernels.conv1d(X[0], W[0], layout="NCHW"), r'layout must be "NCL" or "NLC", got'),
        (
            lambda: kernels.conv3d(X[None], W[None]),
            r"w \(o, c / groups, kd, kh, kw\) must have 2 input channels",
        ),
        (
            lambda: kernels.conv_transpose2d(X, W),
            r"conv_transpose2d: the output channels of w must be the channels of x",
        ),
        (
            lambda: kernels.conv_transpose2d(DY, W, output_padding=1),
            r"output_padding must be less than stride or dilation, got 1 for stride 1",
        ),
        (
            lambda: kernels.conv_transpose2d(DY, W, padding=4),
            r"padding must leave a pixel, got 4 on both sides of 5 along h",
        ),
        (lambda: kernels.conv_transpose2d(DY, W, groups=3), r"groups must divide"),
        (lambda: kernels.conv_transpose2d(DY, W, X[0, 0, 0]), r"b must have shape \(4,\)"),
    ],
)
def test_error_messages_of_the_others(call, message):
    with pytest.raises(ValueError, match=message):
        call()
