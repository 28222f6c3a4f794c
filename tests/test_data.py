"""Datasets and loaders: every sample once, the same order for the same seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import data
from hotloop.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
    random_split,
    stratified_split,
    transforms,
)
from hotloop.tensor import Tensor

X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.arange(10)


def labels_of(loader):
    return [batch[1].numpy().tolist() for batch in loader]


class Squares(Dataset):
    """Samples one by one."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return np.float32([index, index**2]), index


# ---- datasets -----------------------------------------------------------------------------------


def test_tensor_dataset():
    dataset = TensorDataset(X, hl.from_numpy(Y))
    assert len(dataset) == 10
    x, y = dataset[3]
    assert isinstance(x, Tensor)
    np.testing.assert_array_equal(x.numpy(), X[3])
    assert y.item() == 3
    x, y = dataset.take(np.array([2, 2, 9]))
    np.testing.assert_array_equal(x.numpy(), X[[2, 2, 9]])
    x.numpy()[...] = -1  # a batch is no window into the data
    assert X.min() == 0


def test_tensor_dataset_shares_memory():
    x = X.copy()
    dataset = TensorDataset(x)
    x[0] = 100
    assert dataset[0][0].numpy()[0] == 100


@pytest.mark.parametrize("tensors", [(), (np.float32(3),), (X, Y[:9])])
def test_tensor_dataset_refuses(tensors):
    with pytest.raises(ValueError, match="TensorDataset: "):
        TensorDataset(*tensors)


def test_subset_of_a_subset():
    subset = Subset(Subset(TensorDataset(X, Y), [1, 3, 5, 7]), [-1, 0])
    assert [int(subset[i][1].item()) for i in range(2)] == [7, 1]
    assert labels_of(DataLoader(subset, 2)) == [[7, 1]]
    assert not hasattr(Subset(Squares(), [1]), "take")
    assert labels_of(DataLoader(Subset(Squares(), [4, 1]), 2)) == [[4, 1]]
    with pytest.raises(IndexError, match="10 samples, got 10"):
        Subset(TensorDataset(X), [10])


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([7, 3], [7, 3]),
        ([0.75, 0.25], [8, 2]),
        ([0.5, 0.3, 0.2], [5, 3, 2]),
        ([10, 0], [10, 0]),
        ([1.0], [10]),
    ],
)
def test_random_split_covers_everything_once(lengths, sizes):
    parts = random_split(TensorDataset(X, Y), lengths, generator=3)
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate([part.indices for part in parts])) == list(range(10))
    again = random_split(TensorDataset(X, Y), lengths, generator=3)
    assert all((a.indices == b.indices).all() for a, b in zip(parts, again))


@pytest.mark.parametrize("lengths", [[5, 4], [-1, 11], [0.5, 0.4], [2.5, 7.5]])
def test_random_split_refuses(lengths):
    with pytest.raises(ValueError, match="random_split: lengths"):
        random_split(TensorDataset(X), lengths)


@pytest.mark.parametrize("test_size", [0, 1, 17, 60, 99, 100])
def test_stratified_split_keeps_proportions(rng, test_size):
    labels = rng.permutation(np.repeat([0, 1, 5], [50, 30, 20]))
    train, test = stratified_split(labels, test_size, seed=1)
    assert len(test) == test_size
    assert sorted(np.concatenate([train, test])) == list(range(100))
    for label, share in ((0, 0.5), (1, 0.3), (5, 0.2)):
        assert abs((labels[test] == label).sum() - share * test_size) < 1
    assert (stratified_split(labels, test_size, seed=1)[1] == test).all()
    with pytest.raises(ValueError, match="stratified_split"):
        stratified_split(labels, 101)


# ---- loaders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 5, 10, 11])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_sample_comes_once(size, drop_last, shuffle):
    loader = DataLoader(TensorDataset(X, Y), size, shuffle, drop_last=drop_last, generator=0)
    batches = labels_of(loader)
    assert len(batches) == len(loader) == (10 // size if drop_last else -(-10 // size))
    seen = [label for batch in batches for label in batch]
    assert len(set(seen)) == len(seen) == (10 - 10 % size if drop_last else 10)
    if not shuffle:
        assert seen == sorted(seen)


def test_inputs_and_labels_stay_together():
    for x, y in DataLoader(TensorDataset(X, Y), 3, shuffle=True, generator=1):
        np.testing.assert_array_equal(x.numpy(), X[y.numpy()])
        assert x.numpy().dtype == np.float32
        assert x.numpy().flags.c_contiguous


def test_the_order_depends_on_seed_and_epoch_alone():
    first = DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=5)
    epochs = [labels_of(first) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    second = DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=5)
    assert [labels_of(second) for _ in range(3)] == epochs
    third = DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=5)
    third.epoch = 2
    assert labels_of(third) == epochs[2]
    assert labels_of(DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=6)) != epochs[0]


def test_a_loader_goes_on_where_another_was():
    first = DataLoader(TensorDataset(X, Y), 4, shuffle=True)
    labels_of(first)
    second = DataLoader(TensorDataset(X, Y), 4, shuffle=True)
    second.load_state_dict(first.state_dict())
    assert labels_of(second) == labels_of(first)
    with pytest.raises(ValueError, match='"seed" and "epoch"'):
        second.load_state_dict({})
    with pytest.raises(ValueError, match="NumPy generator"):
        DataLoader(TensorDataset(X), generator=np.random.default_rng(0)).state_dict()


def test_without_a_seed_the_order_follows_from_hl_seed():
    def order():
        return labels_of(DataLoader(TensorDataset(X, Y), 10, shuffle=True))

    hl.seed(4)
    first, second = order(), order()
    assert first != second
    hl.seed(4)
    assert order() == first


def test_a_numpy_generator_is_drawn_from():
    loader = DataLoader(TensorDataset(X, Y), 10, shuffle=True, generator=np.random.default_rng(0))
    expected = np.random.default_rng(0)
    for _ in range(2):
        assert labels_of(loader) == [expected.permutation(10).tolist()]


def test_samples_one_by_one_are_stacked():
    (x, y), (last, _) = DataLoader(Squares(), 3)
    np.testing.assert_array_equal(x.numpy(), [[0, 0], [1, 1], [2, 4]])
    assert x.numpy().dtype == np.float32
    assert y.numpy().dtype == np.int64
    assert last.shape == (2, 2)


def test_a_list_is_a_dataset():
    assert [batch.numpy().tolist() for batch in DataLoader([1, 2, 3], 2)] == [[1, 2], [3]]
    assert list(DataLoader([], 2)) == []


def test_collate():
    batch = default_collate([{"a": 1.5, "b": (1, "x")}, {"a": 2, "b": (2, "y")}])
    assert batch["a"].numpy().dtype == np.float32
    assert batch["b"][1] == ["x", "y"]
    assert default_collate([True, False]).numpy().dtype == bool
    assert DataLoader([3, 4], 2, collate_fn=sum).__iter__().__next__() == 7
    with pytest.raises(ValueError, match="one shape"):
        default_collate([np.zeros(2), np.zeros(3)])
    with pytest.raises(ValueError, match="one length"):
        default_collate([(1,), (1, 2)])
    with pytest.raises(TypeError, match="got object"):
        default_collate([object()])
    with pytest.raises(ValueError, match="at least one"):
        default_collate([])


def test_pinned_memory_changes_nothing():
    plain, pinned = (
        [batch[0].numpy() for batch in DataLoader(TensorDataset(X), 3, pin_memory=pin)]
        for pin in (False, True)
    )
    assert all((a == b).all() for a, b in zip(plain, pinned, strict=True))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"batch_size": 0}, ValueError),
        ({"batch_size": -2}, ValueError),
        ({"batch_size": 1.5}, TypeError),
        ({"batch_size": True}, TypeError),
        ({"num_workers": 2}, ValueError),
        ({"generator": "seed"}, TypeError),
    ],
)
def test_loaders_refuse(options, kind):
    with pytest.raises(kind, match="DataLoader: "):
        DataLoader(TensorDataset(X), **options)
    with pytest.raises(TypeError, match="__len__"):
        DataLoader(iter([1]))


def test_the_public_names():
    assert hl.data is data
    assert hl.utils.data is data


# ---- digits, transforms -------------------------------------------------------------------------


def test_digits():
    pytest.importorskip("sklearn")
    images, labels = data.datasets.load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.dtype == np.int64
    assert np.bincount(labels).min() == 174


def test_affine_without_amount_changes_nothing(rng, dtype):
    images = rng.random((3, 2, 5, 7)).astype(dtype)
    found = transforms.random_affine(images, seed=0)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, images, rtol=1e-6)


def test_affine_keeps_the_weight_of_what_stays_inside():
    images = np.zeros((50, 1, 9, 9))
    images[:, :, 4, 4] = 1
    found = transforms.random_affine(images, shift=2.0, seed=1)
    np.testing.assert_allclose(found.sum(axis=(1, 2, 3)), 1, rtol=1e-9)
    assert len({found[i].tobytes() for i in range(50)}) == 50
    np.testing.assert_array_equal(found, transforms.random_affine(images, shift=2.0, seed=1))


def test_affine_turns():
    images = np.zeros((40, 1, 9, 9))
    images[:, :, 4, :] = 1
    found = transforms.random_affine(images, rotation=0.3, scale=0.1, seed=2)
    assert (found[:, 0, 4, 4] > 0.9).all()  # the centre stays
    assert found[:, 0, :4, 7].sum() > 0
    with pytest.raises(ValueError, match="random_affine"):
        transforms.random_affine(images[0])
    with pytest.raises(ValueError, match="random_affine"):
        transforms.random_affine(images, scale=1.0)
