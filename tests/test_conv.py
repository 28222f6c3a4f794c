"""conv2d in three directions against float64 references, finite differences and PyTorch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest

import reference as ref
from hotloop import kernels


@dataclass(frozen=True)
class Problem:
    """Sizes and settings of one convolution; arrays are drawn with make."""

    n: int
    c: int
    h: int
    w: int
    o: int
    kh: int
    kw: int
    how: dict = field(default_factory=dict)

    @property
    def groups(self) -> int:
        return self.how.get("groups", 1)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (self.o, self.c // self.groups, self.kh, self.kw)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.n, self.c, self.h, self.w)

    def make(self, rng: np.random.Generator, dtype: type) -> tuple[np.ndarray, ...]:
        x = rng.uniform(-1, 1, self.x_shape).astype(dtype)
        w = rng.uniform(-1, 1, self.w_shape).astype(dtype)
        b = rng.uniform(-1, 1, self.o).astype(dtype)
        dy = rng.uniform(-1, 1, ref.conv2d(x, w, **self.how).shape).astype(dtype)
        return x, w, b, dy

    @property
    def id(self) -> str:
        how = "-".join(f"{name[0]}{value}" for name, value in self.how.items())
        return f"{self.n}x{self.c}@{self.h}x{self.w}-{self.o}-{self.kh}x{self.kw}-{how}".replace(
            " ", ""
        )


def problem(n, c, h, w, o, kh, kw, **how) -> Problem:
    return Problem(n, c, h, w, o, kh, kw, how)


# Pixels that fill vectors while w is read as it lies: none, one and two beyond a block, one less.
FEW_PIXELS = [
    problem(1, 130, 4, 4, 131, 3, 3, padding=1),
    problem(1, 33, 7, 7, 210, 3, 3, padding=1),
    problem(2, 25, 5, 5, 201, 3, 3, padding=2, dilation=2),
    problem(1, 80, 47, 1, 190, 3, 1, padding=(1, 0)),
    problem(1, 20, 16, 15, 257, 3, 3, stride=2, padding=1),  # a panel of four blocks
    problem(1, 300, 7, 7, 197, 3, 3, padding=1),  # two runs of terms
    problem(1, 210, 7, 7, 200, 1, 1),
    problem(1, 210, 13, 14, 200, 1, 1, stride=2),
    problem(1, 90, 9, 9, 290, 3, 2, stride=(1, 2), padding=(0, 1)),
]

SHAPES = [
    problem(1, 1, 1, 1, 1, 1, 1),
    problem(2, 1, 8, 8, 16, 3, 3, padding=1),
    problem(9, 16, 8, 8, 32, 3, 3, padding=1),
    problem(2, 3, 9, 7, 5, 3, 2),
    problem(1, 2, 5, 6, 3, 3, 3, padding=3),  # more padding than half the kernel
    problem(2, 3, 4, 5, 4, 2, 2, padding=(5, 6)),  # whole kernels outside the image
    problem(2, 4, 11, 13, 6, 3, 3, stride=2, padding=1),
    problem(2, 4, 11, 13, 6, 2, 3, stride=(3, 2), padding=(0, 1)),
    problem(2, 3, 9, 9, 4, 1, 1, stride=2),
    problem(1, 3, 9, 8, 4, 1, 2, stride=(4, 5)),  # input pixels that no output sees
    problem(1, 3, 12, 14, 5, 3, 3, dilation=2, padding=2),
    problem(1, 3, 12, 14, 5, 3, 2, dilation=(3, 2), stride=(2, 3), padding=(4, 1)),
    problem(1, 3, 13, 12, 5, 3, 3, dilation=2, stride=2, padding=3),
    problem(2, 6, 7, 7, 9, 3, 3, groups=3, padding=1),
    problem(2, 8, 7, 6, 4, 3, 3, groups=4, stride=2, padding=1),
    problem(2, 5, 7, 7, 5, 3, 3, groups=5, padding=1),  # depthwise
    problem(1, 17, 9, 8, 17, 5, 3, groups=17, stride=2, padding=(2, 1)),
    problem(3, 32, 6, 6, 32, 3, 3, groups=32, dilation=2, padding=2),
    problem(2, 4, 6, 6, 12, 3, 3, groups=4, padding=1),  # depthwise, three outputs each
    problem(1, 2, 5, 6, 3, 3, 3, stride=(10**6, 2**31), padding=1),
    problem(9, 5, 6, 6, 20, 5, 3, padding=(4, 1)),  # taps that meet few rows, many images
    problem(6, 5, 7, 5, 20, 3, 3, padding=(9, 1), stride=(4, 1)),  # and none
    problem(2, 20, 5, 5, 70, 1, 1),
    problem(1, 37, 4, 4, 67, 3, 3, padding=1),
    problem(1, 64, 3, 3, 33, 3, 3, padding=1),  # more terms than one run
    problem(40, 2, 3, 3, 4, 2, 2),  # several images in one piece of work
    problem(1, 8, 40, 60, 8, 3, 3, padding=1),  # several pieces in one image
    problem(2, 1, 1, 50, 3, 1, 7, padding=(0, 3)),
    problem(2, 2, 50, 1, 3, 7, 1, padding=(3, 0)),
    # Edges that leave taps out, apart from what is inside.
    problem(3, 32, 7, 7, 33, 3, 3, padding=1),
    problem(2, 20, 4, 3, 33, 5, 5, padding=2),
    problem(2, 33, 9, 8, 34, 3, 3, padding=(2, 1), stride=2),
    problem(7, 32, 3, 6, 40, 5, 3, padding=(1, 3), dilation=(1, 2)),
    problem(1, 96, 4, 5, 130, 3, 3, padding=1),  # gradients of weights put in place at once
    problem(2, 80, 6, 5, 96, 3, 2, padding=1, stride=(2, 3)),
    # 1x1 kernels that step over pixels: products of the pixels that are left.
    problem(3, 18, 7, 8, 20, 1, 1, stride=(2, 3)),
    problem(2, 5, 4, 1, 3, 1, 1, stride=(3, 2)),
    # Gradients by few channels with pixels in the vectors, wide and just wide enough.
    problem(2, 1, 5, 17, 9, 3, 3, padding=1),
    problem(2, 2, 30, 33, 8, 3, 2, padding=(0, 3)),
    problem(3, 3, 9, 9, 17, 3, 3, padding=1, dilation=2),
    problem(1, 4, 6, 70, 33, 2, 5, padding=(3, 7), dilation=(3, 2)),
    problem(1, 3, 60, 9, 40, 5, 1, padding=(1, 0)),
    # Weights that outweigh the images: panel by panel, all phases of a stride together.
    problem(2, 250, 4, 5, 250, 3, 3, padding=1),
    problem(3, 200, 7, 6, 250, 3, 2, stride=2, padding=1),
    problem(9, 64, 5, 5, 256, 3, 3, padding=1),
    problem(1, 256, 6, 7, 250, 3, 3, stride=(2, 3), padding=(1, 2), dilation=(1, 2)),
    problem(2, 128, 6, 6, 140, 3, 3, groups=2),
    *FEW_PIXELS,
]


def check_three(p: Problem, arrays: tuple[np.ndarray, ...]) -> None:
    x, w, b, dy = arrays
    terms = w[0].size
    y = kernels.conv2d(x, w, b, **p.how)
    assert y.dtype == x.dtype
    ref.assert_close(y, ref.conv2d(x, w, b, **p.how), terms + 1, kind="product", scale=1, name="y")
    dx = kernels.conv2d_backward_input(dy, w, x.shape, **p.how)
    expected = ref.conv2d_backward_input(dy, w, x.shape, **p.how)
    depth = w.size // w.shape[1]
    ref.assert_close(dx, expected, depth, kind="product", scale=1, name="dx")
    dw = kernels.conv2d_backward_weight(dy, x, w.shape, **p.how)
    expected = ref.conv2d_backward_weight(dy, x, w.shape, **p.how)
    depth = dy.size // dy.shape[1]
    ref.assert_close(dw, expected, depth, kind="product", scale=1, name="dw")


@pytest.mark.parametrize("p", SHAPES, ids=lambda p: p.id)
def test_values(p, dtype, rng, level):
    check_three(p, p.make(rng, dtype))


def channels_last(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def within(a: np.ndarray, channels: int) -> np.ndarray:
    """The values of a (n, c, h, w) as some of `channels` channels that lie next to each other."""
    n, c, h, w = a.shape
    whole = np.full((n, h, w, channels), np.nan, a.dtype)
    whole[..., :c] = a.transpose(0, 2, 3, 1)
    return whole[..., :c].transpose(0, 3, 1, 2)


@pytest.mark.parametrize(("channels", "pitch"), [(128, 128), (100, 1024), (131, 2048)])
def test_depthwise_with_pixels_that_share_places(channels, pitch, dtype, rng, level):
    """A multiple of 4 KB apart, channels are copied some at a time."""
    how = {"groups": channels}
    for p in (
        problem(3, channels, 7, 6, channels, 3, 3, padding=1, **how),
        problem(1, channels, 9, 11, channels, 5, 3, padding=(2, 0), stride=2, **how),
        problem(2, channels, 5, 3, channels, 2, 3, padding=(0, 2), dilation=(2, 1), **how),
    ):
        x, w, b, dy = p.make(rng, dtype)
        x, dy = within(x, pitch), within(dy, pitch)
        check_three(p, (x, w, b, dy))
    ref.assert_same_bits(
        lambda: (
            kernels.conv2d(x, w, b, **p.how),
            kernels.conv2d_backward_input(dy, w, x.shape, **p.how),
            kernels.conv2d_backward_weight(dy, x, w.shape, **p.how),
        )
    )


@pytest.mark.parametrize("channels", [17, 32, 36, 64, 100, 131])
def test_depthwise_weights_by_groups_of_channels(channels, dtype, rng, level):
    """Four or two vectors of channels go along a row together, the others by themselves."""
    for width, padding in [(w, p) for w in (1, 2, 3, 4, 7, 8) for p in (0, 1, 2, 3)]:
        if width + 2 * padding < 3:
            continue
        for how in ({"stride": 2}, {"stride": (1, 2), "dilation": (2, 1)}):
            p = problem(
                3, channels, 6, width, channels, 3, 3, padding=(1, padding), groups=channels, **how
            )
            x, w, _, dy = p.make(rng, dtype)
            x, dy = channels_last(x), channels_last(dy)
            dw = kernels.conv2d_backward_weight(dy, x, w.shape, **p.how)
            expected = ref.conv2d_backward_weight(dy, x, w.shape, **p.how)
            depth = dy.size // channels
            ref.assert_close(dw, expected, depth, kind="product", scale=1, name=p.id)


def test_depthwise_in_and_out_of_the_caches(dtype, rng, level):
    """Rows are walked in another order where x is larger than 16 megabytes: the same sums."""
    image = rng.standard_normal((1, 41, 17, 20)).astype(dtype).transpose(0, 3, 1, 2)
    w, b = rng.standard_normal((20, 1, 3, 3)).astype(dtype), rng.standard_normal(20).astype(dtype)
    one = kernels.conv2d(image, w, b, padding=1, groups=20)
    tall = np.concatenate([image] * 320).astype(dtype)
    assert tall.nbytes > 16 << 20
    many = kernels.conv2d(channels_last(tall), w, b, padding=1, groups=20)
    np.testing.assert_array_equal(many, np.broadcast_to(one, many.shape))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (3, 1), (4, 4), (5, 7), (9, 2), (14, 6)])
def test_depthwise_rows_that_go_together(size, dtype, rng, level):
    """1 to 4 rows at once, and what the padding leaves of them; in each of three images."""
    for channels, padding in ((16, 1), (37, (0, 1)), (5, (2, 1)), (20, (1, 0)), (9, (3, 2))):
        pad_h, pad_w = (padding, padding) if isinstance(padding, int) else padding
        if size[0] + 2 * pad_h < 3 or size[1] + 2 * pad_w < 3:
            continue
        p = problem(3, channels, *size, channels, 3, 3, padding=(pad_h, pad_w), groups=channels)
        x, w, b, dy = p.make(rng, dtype)
        x, dy = channels_last(x), channels_last(dy)
        check_three(p, (x, w, b, dy))
        ref.assert_same_bits(
            lambda: (
                kernels.conv2d(x, w, b, **p.how),  # noqa: B023
                kernels.conv2d_backward_input(dy, w, x.shape, **p.how),  # noqa: B023
                kernels.conv2d_backward_weight(dy, x, w.shape, **p.how),  # noqa: B023
            )
        )


def test_depthwise_weights_that_are_not_finite_meet_the_same_pixels(dtype, rng, level):
    """Rows in the padding are left out of the sum, whether rows go together or not."""
    x = channels_last(rng.standard_normal((2, 6, 9, 5)).astype(dtype))
    w = rng.standard_normal((6, 1, 3, 3)).astype(dtype)
    w[2, 0, 0] = np.nan  # the rows of taps above
    y = kernels.conv2d(x, w, padding=1, groups=6)
    assert np.isfinite(y[:, 2, 0]).all()
    assert np.isnan(y[:, 2, 1:]).all()
    assert np.isfinite(np.delete(y, 2, 1)).all()


# Around the widths of vectors, blocks and panels, and around the rows of a tile.
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129])
def test_channels_at_the_edges(channels, dtype, rng, level):
    check = problem(1, 3, 4, 4, channels, 2, 2)
    check_three(check, check.make(rng, dtype))
    check = problem(1, channels, 4, 3, 3, 2, 2, padding=1)
    check_three(check, check.make(rng, dtype))


@pytest.mark.parametrize("outputs", [5, 20, 40, 60])
def test_pixels_at_the_edges(outputs, rng, level):
    for width in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 17, 24, 25, 28, 29):
        check = problem(1, 2, 1, width, outputs, 1, 1)
        check_three(check, check.make(rng, np.float32))


@pytest.mark.parametrize(("channels", "outputs"), [(1, 32), (3, 32), (3, 20), (7, 31), (8, 32)])
def test_first_layers(channels, outputs, dtype, rng, level):
    """Sums of few terms: tiles in one loop where rows have even lengths, their rest behind them."""
    for p in (
        problem(3, channels, 9, 14, outputs, 3, 3, padding=1),
        problem(2, channels, 5, 8, outputs, 3, 3),
        problem(1, channels, 4, 6, outputs, 3, 3),  # two whole tiles of one row each
        problem(1, channels, 4, 13, outputs, 3, 3, padding=1),  # an odd length
        problem(1, channels, 9, 26, outputs, 3, 3, stride=2, padding=(2, 1)),
        problem(1, channels, 8, 14, outputs, 3, 3, dilation=(2, 3), padding=3),
        problem(2, 2 * channels, 6, 12, 2 * outputs, 3, 3, groups=2, padding=1),
    ):
        x, w, b, dy = p.make(rng, dtype)
        check_three(p, (x, w, b, dy))
        check_three(p, (channels_last(x), w, b, channels_last(dy)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_gradients_by_few_channels(channels, dtype, rng, level):
    """Channels-last dy with whole vectors of outputs is read in place: edges of its tiles."""
    shapes = [
        problem(2, channels, 3, 9, 16, 3, 3, padding=1),
        problem(1, channels, 5, 10, 48, 3, 3),
        problem(1, channels, 4, 12, 32, 2, 3, padding=(3, 4), dilation=(2, 1)),
        problem(1, channels, 12, 13, 16, 9, 3, padding=(4, 2)),
        problem(2, channels, 1, 19, 16, 1, 3, padding=(2, 0)),
        problem(1, channels, 6, 16, 16, 3, 3, padding=(0, 1), dilation=(2, 2)),
    ]
    for p in shapes:
        x, w, b, dy = p.make(rng, dtype)
        bias = b[:channels]
        dx = kernels.conv2d_backward_input(channels_last(dy), w, x.shape, **p.how)
        expected = ref.conv2d_backward_input(dy, w, x.shape, **p.how)
        depth = w.size // channels
        ref.assert_close(dx, expected, depth, kind="product", scale=1, name=p.id)
        turned = kernels.conv_transpose2d(channels_last(dy), w, bias, activation="relu", **p.how)
        expected = np.maximum(expected + bias[:, None, None], 0)
        ref.assert_close(turned, expected, depth + 1, kind="product", scale=1, name=p.id)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_gradients_by_few_channels_end_with_their_rows(channels, dtype, rng, level):
    """Tiles write whole vectors as long as their row goes on; rows of dx lie apart here."""
    for width, padding in [(w, p) for w in range(9, 22) for p in (0, 1, 2)]:
        p = problem(2, channels, 4, width, 16, 3, 3, padding=(1, padding))
        x, w, _, dy = p.make(rng, dtype)
        rows = np.full((2, 4, width + 8, channels), 7.5, dtype)
        out = rows[:, :, :width].transpose(0, 3, 1, 2)
        kernels.conv2d_backward_input(channels_last(dy), w, x.shape, **p.how, out=out)
        expected = ref.conv2d_backward_input(dy, w, x.shape, **p.how)
        ref.assert_close(out, expected, w.size // channels, kind="product", scale=1, name=p.id)
        assert (rows[:, :, width:] == 7.5).all()


def test_random_problems(rng, level):
    done = 0
    while done < 40:
        groups = int(rng.choice([1, 1, 2, 3]))
        n, h, w = (int(v) for v in rng.integers(1, 12, 3))
        c, o = (groups * int(v) for v in rng.integers(1, 24, 2))
        kh, kw, *rest = (int(v) for v in rng.integers(1, 5, 6))
        how = {
            "stride": (rest[0], rest[1]),
            "padding": (rest[2] - 1, rest[3] - 1),
            "dilation": tuple(int(v) for v in rng.integers(1, 4, 2)),
            "groups": groups,
        }
        fits = zip((h, w), (kh, kw), how["padding"], how["dilation"])
        if any(d * (k - 1) + 1 > size + 2 * pad for size, k, pad, d in fits):
            continue
        check = Problem(n, c, h, w, o, kh, kw, how)
        check_three(check, check.make(rng, rng.choice([np.float32, np.float64])))
        done += 1


# ---- layouts, strides, out ------------------------------------------------------------------


LAYOUT_SHAPES = [
    problem(2, 3, 6, 7, 5, 3, 3, padding=1, stride=2),
    problem(2, 20, 5, 6, 18, 3, 3, padding=1),
    problem(2, 18, 5, 5, 18, 3, 3, padding=1, groups=18),
    problem(2, 4, 5, 5, 6, 2, 2, groups=2),
    problem(3, 8, 4, 4, 16, 1, 1),
    problem(1, 96, 4, 5, 130, 3, 3, padding=1),
    problem(3, 32, 7, 6, 20, 3, 3, padding=1),
    problem(2, 20, 5, 7, 18, 1, 1, stride=2),
    problem(2, 3, 6, 19, 12, 3, 3, padding=1),
]


def assert_like(
    p: Problem, actual: np.ndarray, expected: np.ndarray, *, weight: bool = False
) -> None:
    """The same bits; of a plain product, which memory may turn round, the same to rounding, and so
    the weight's gradient of a depthwise one, which takes several rows at once where it can."""
    if p.kh * p.kw > 1 and not (weight and p.how.get("groups") == p.c):
        ref.assert_same(actual, expected)
    else:
        ref.assert_close(actual, expected, 200, kind="product", scale=1)


@pytest.mark.parametrize("p", LAYOUT_SHAPES, ids=lambda p: p.id)
def test_nhwc_is_the_same_kernel(p, dtype, rng):
    x, w, b, dy = p.make(rng, dtype)
    how = p.how | {"layout": "NHWC"}
    y = kernels.conv2d(ref.to_nhwc(x), ref.to_hwio(w), b, **how)
    assert y.flags.c_contiguous
    assert_like(p, ref.to_nhwc(kernels.conv2d(x, w, b, **p.how)), y)
    shape = ref.to_nhwc(x).shape
    dx = kernels.conv2d_backward_input(ref.to_nhwc(dy), ref.to_hwio(w), shape, **how)
    assert_like(p, ref.to_nhwc(kernels.conv2d_backward_input(dy, w, x.shape, **p.how)), dx)
    shape = ref.to_hwio(w).shape
    dw = kernels.conv2d_backward_weight(ref.to_nhwc(dy), ref.to_nhwc(x), shape, **how)
    plain = kernels.conv2d_backward_weight(dy, x, w.shape, **p.how)
    assert_like(p, ref.to_hwio(plain), dw, weight=True)


def test_results_are_stored_channels_last(rng):
    p = problem(2, 3, 6, 7, 5, 3, 3)
    x, w, b, dy = p.make(rng, np.float32)
    assert kernels.conv2d(x, w, b).transpose(0, 2, 3, 1).flags.c_contiguous
    dx = kernels.conv2d_backward_input(dy, w, x.shape)
    assert dx.transpose(0, 2, 3, 1).flags.c_contiguous
    assert kernels.conv2d_backward_weight(dy, x, w.shape).flags.c_contiguous


@pytest.mark.parametrize("layout", [*ref.LAYOUTS, "channels-last"])
@pytest.mark.parametrize("p", LAYOUT_SHAPES, ids=lambda p: p.id)
def test_memory_layouts_of_inputs(p, layout, rng):
    """Any strides give the bits of contiguous memory, but for `assert_like`'s exceptions."""
    x, w, b, dy = p.make(rng, np.float32)

    def laid_out(a: np.ndarray) -> np.ndarray:
        if layout == "channels-last":
            return ref.to_nhwc(a).transpose(0, 3, 1, 2) if a.ndim == 4 else a
        return ref.with_layout(a, layout)

    x2, w2, b2, dy2 = (laid_out(a) for a in (x, w, b, dy))
    assert_like(p, kernels.conv2d(x2, w2, b2, **p.how), kernels.conv2d(x, w, b, **p.how))
    assert_like(
        p,
        kernels.conv2d_backward_input(dy2, w2, x.shape, **p.how),
        kernels.conv2d_backward_input(dy, w, x.shape, **p.how),
    )
    assert_like(
        p,
        kernels.conv2d_backward_weight(dy2, x2, w.shape, **p.how),
        kernels.conv2d_backward_weight(dy, x, w.shape, **p.how),
        weight=True,
    )


@pytest.mark.parametrize("layout", [*ref.LAYOUTS, "channels-last"])
def test_out(layout, dtype, rng):
    p = LAYOUT_SHAPES[0]
    x, w, b, dy = p.make(rng, dtype)

    def destination(shape: tuple[int, ...]) -> np.ndarray:
        if layout == "channels-last":
            n, c, h, width = shape
            return np.full((n, h, width, c), 77, dtype).transpose(0, 3, 1, 2)
        return ref.empty_with_layout(shape, dtype, layout)

    calls = [
        lambda out: kernels.conv2d(x, w, b, **p.how, out=out),
        lambda out: kernels.conv2d_backward_input(dy, w, x.shape, **p.how, out=out),
        lambda out: kernels.conv2d_backward_weight(dy, x, w.shape, **p.how, out=out),
    ]
    for call in calls:
        expected = call(None)
        out = destination(expected.shape)
        assert call(out) is out
        ref.assert_same(out, expected)


@pytest.mark.parametrize("p", LAYOUT_SHAPES, ids=lambda p: p.id)
def test_nothing_is_written_outside_of_out(p, rng, level):
    x, w, b, dy = p.make(rng, np.float32)
    how = p.how | {"layout": "NHWC"}
    x, w, dy = ref.to_nhwc(x), ref.to_hwio(w), ref.to_nhwc(dy)
    for shape, call in (
        (dy.shape, lambda out: kernels.conv2d(x, w, b, **how, out=out)),
        (x.shape, lambda out: kernels.conv2d_backward_input(dy, w, x.shape, **how, out=out)),
        (w.shape, lambda out: kernels.conv2d_backward_weight(dy, x, w.shape, **how, out=out)),
    ):
        out, check = ref.guarded(shape, np.float32)
        call(out)
        check()
        assert not (out == 77).any()


def test_settings_as_pairs_and_integers(rng):
    x, w, _, _ = problem(1, 2, 8, 8, 3, 3, 3).make(rng, np.float32)
    for name, value in itertools.product(("stride", "padding", "dilation"), (1, 2)):
        one = kernels.conv2d(x, w, **{name: value})
        ref.assert_same(kernels.conv2d(x, w, **{name: (value, value)}), one)
        ref.assert_same(kernels.conv2d(x, w, **{name: [value, np.int64(value)]}), one)


# ---- epilogue, special values -----------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "tanh", "hardswish"])
@pytest.mark.parametrize("groups", [1, 6])
def test_activation_is_that_of_the_family(activation, groups, rng, level):
    p = problem(2, 6, 5, 5, 18 if groups == 1 else 6, 3, 3, groups=groups)
    x, w, b, _ = p.make(rng, np.float32)
    plain = kernels.conv2d(x, w, b, **p.how)
    fused = kernels.conv2d(x, w, b, **p.how, activation=activation)
    function = getattr(kernels, activation, None)
    if function is None:
        function = {"relu": lambda v: np.maximum(v, 0), "tanh": np.tanh}.get(activation)
        if function is None:
            pytest.skip(f"no kernel {activation} yet")
    ref.assert_close(fused, function(np.ascontiguousarray(plain)), 4, kind="function")


def test_padding_keeps_infinities_out(level):
    """A tap on the padding multiplies a zero of the image, whatever its weight; NaN spreads."""
    x = np.ones((1, 1, 3, 3), np.float32)
    w = np.ones((1, 1, 3, 3), np.float32)
    x[0, 0, 0, 0] = np.nan
    y = kernels.conv2d(x, w, padding=1)[0, 0]
    assert np.isnan(y[:2, :2]).all()
    assert np.array_equal(y[2], [4, 6, 4])
    assert np.array_equal(y[:, 2], [4, 6, 4])


@pytest.mark.parametrize(("width", "stride"), [(20, 2), (6, 1), (33, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_infinities_stay_where_they_are_read(channels, width, stride, dtype, level):
    """Gradients by few channels leave lanes of their vectors empty, which meet no other pixel."""
    p = problem(1, channels, 9, width, 16, 3, 3, padding=1, stride=stride)
    w = np.ones(p.w_shape, dtype)
    dy = np.zeros_like(kernels.conv2d(np.ones(p.x_shape, dtype), w, **p.how))
    for at in ((0, 3, 2, 1), (0, 5, 4, dy.shape[3] - 1)):
        dy[...] = 0
        dy[at] = 1
        read = ref.conv2d_backward_input(dy, w, p.x_shape, **p.how) != 0
        dy[at] = np.inf
        dx = kernels.conv2d_backward_input(dy, w, p.x_shape, **p.how)
        assert np.array_equal(np.isfinite(dx), ~read)


def test_fresh_scratch_never_shows(rng, level):
    """Memory that an earlier call left full of NaN is not read."""
    p = problem(2, 3, 7, 7, 5, 3, 3, padding=1, stride=2)
    x, w, b, dy = p.make(rng, np.float32)
    kernels.conv2d(np.full((4, 8, 16, 16), np.nan, np.float32), np.ones((40, 8, 3, 3), np.float32))
    check_three(p, (x, w, b, dy))


def test_results_beyond_the_caches(rng, level):
    """Written around the caches when they are large: the same bits as in parts."""
    x = rng.uniform(-1, 1, (1, 1, 728, 728)).astype(np.float32)
    w = rng.uniform(-1, 1, (32, 1, 3, 3)).astype(np.float32)
    y = kernels.conv2d(x, w)
    assert y.nbytes >= 64 << 20
    for row in range(0, y.shape[2], 121):
        part = kernels.conv2d(x[:, :, row : row + 123], w)
        assert np.array_equal(y[:, :, row : row + 121], part)


@pytest.mark.parametrize(
    ("kernel", "how"),
    [
        (3, {"stride": 2, "padding": 1}),
        (3, {"stride": (3, 2), "padding": (1, 0)}),
        (3, {"stride": 2, "padding": 3, "dilation": 3}),
        (2, {"stride": 2, "padding": 16, "dilation": 31}),  # too far apart to share
    ],
    ids=str,
)
def test_phases_that_share_a_copy(kernel, how, rng, level):
    p = problem(2, 256, 15, 14, 44, kernel, kernel, **how)
    check_three(p, p.make(rng, np.float32))


# ---- threads ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "p",
    [
        problem(20, 16, 8, 8, 32, 3, 3, padding=1),
        problem(1, 32, 14, 14, 70, 3, 3, padding=1),
        problem(1, 64, 7, 7, 140, 3, 3, padding=1),
        problem(1, 32, 29, 28, 64, 3, 3, padding=1),
        problem(23, 16, 15, 14, 32, 3, 3, padding=1),
        problem(3, 250, 6, 5, 256, 3, 3, stride=2, padding=1),
        problem(3, 3, 50, 50, 16, 3, 3, stride=2, padding=1),
        problem(3, 3, 50, 50, 16, 3, 3, padding=1),
        problem(3, 64, 20, 20, 48, 1, 1, stride=2),
        problem(2, 48, 20, 20, 48, 3, 3, groups=48, padding=1),
    ],
    ids=lambda p: p.id,
)
def test_bits_do_not_depend_on_threads(p, dtype, rng):
    x, w, b, dy = p.make(rng, dtype)
    ref.assert_same_bits(
        lambda: (
            kernels.conv2d(x, w, b, **p.how),
            kernels.conv2d_backward_input(dy, w, x.shape, **p.how),
            kernels.conv2d_backward_weight(dy, x, w.shape, **p.how),
        )
    )


def test_values_with_threads(threads, rng):
    for p in (
        problem(12, 16, 12, 12, 40, 3, 3, padding=1),
        problem(1, 64, 12, 12, 64, 3, 3, padding=1),
        problem(1, 32, 29, 28, 64, 3, 3, padding=1),  # 29 rows, 3 or 4 to a piece
        problem(19, 16, 16, 16, 32, 3, 3, padding=1),  # one or two images to a piece
        problem(23, 16, 30, 30, 32, 3, 3, padding=1),  # one or two images to a chunk
        problem(1, 16, 57, 21, 64, 3, 3, stride=2, padding=1),
        problem(2, 136, 13, 11, 256, 3, 3, padding=1),  # runs and panels that follow one another
    ):
        check_three(p, p.make(rng, np.float32))


# ---- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "p",
    [
        problem(2, 3, 4, 5, 2, 3, 2, padding=1),
        problem(1, 2, 6, 5, 4, 3, 3, stride=2, padding=2, groups=2),
        problem(1, 3, 6, 6, 3, 2, 3, stride=(2, 3), dilation=2, padding=(1, 2), groups=3),
    ],
    ids=lambda p: p.id,
)
def test_gradients_by_finite_differences(p, rng):
    x, w, b, dy = p.make(rng, np.float64)

    def forward() -> np.ndarray:
        return kernels.conv2d(x, w, b, **p.how)

    ref.assert_gradient(kernels.conv2d_backward_input(dy, w, x.shape, **p.how), forward, x, dy)
    ref.assert_gradient(kernels.conv2d_backward_weight(dy, x, w.shape, **p.how), forward, w, dy)


@pytest.mark.parametrize("p", SHAPES, ids=lambda p: p.id)
def test_against_pytorch(p, rng):
    torch = pytest.importorskip("torch")
    x, w, b, dy = p.make(rng, np.float64)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = torch.nn.functional.conv2d(*tensors, **p.how)
    y.backward(torch.tensor(dy))
    ref.assert_close(kernels.conv2d(x, w, b, **p.how), y.detach().numpy(), 1000, kind="product")
    dx = kernels.conv2d_backward_input(dy, w, x.shape, **p.how)
    ref.assert_close(dx, tensors[0].grad.numpy(), 1000, kind="product")
    dw = kernels.conv2d_backward_weight(dy, x, w.shape, **p.how)
    ref.assert_close(dw, tensors[1].grad.numpy(), 1000, kind="product")
