"""Data of the paper's experiments: the files of a folder, or what packages ship.

| experiment | a folder with | without a folder |
|---|---|---|
| images | `mnist.npz`, as Keras stores it | scikit-learn's digits, 8x8 |
| photographs | `cifar10_subset.npz`, with the keys of `mnist.npz` | scikit-learn's digits, 8x8 |
| documents | `imdb5k.tsv.gz`, lines of a label, a tab and a text | pieces of Python's manual, `pydoc_data.topics` |
"""

import gzip
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import train_test_split


class Data(NamedTuple):
    """Inputs as float32 (words as bits) and labels from 0, for training and for the test; and what they are, in words."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    name: str


def images(folder: Path | None) -> Data:
    """Grey images `(n, height, width, 1)` from 0 to 1."""
    if folder is None:
        return digits()
    x, y, x_test, y_test = stored(folder / "mnist.npz")
    return Data(x[..., None] / np.float32(255), y, x_test[..., None] / np.float32(255), y_test, "MNIST")


def photographs(folder: Path | None) -> Data:
    """Coloured images of 16 by 16, every colour with mean 0 and deviation 1; the means of 2 by 2 pixels of CIFAR-10."""
    if folder is None:
        data, name = digits(), "digits"
    else:
        x, y, x_test, y_test = stored(folder / "cifar10_subset.npz")
        data, name = Data(halved(x), y, halved(x_test), y_test, ""), "CIFAR-10"
    mean, deviation = data.x.mean((0, 1, 2)), data.x.std((0, 1, 2))
    return data._replace(x=(data.x - mean) / deviation, x_test=(data.x_test - mean) / deviation, name=name)


def documents(folder: Path | None, words: int) -> Data:
    """Bags of words: a bit for each of the most frequent words of the training texts, one label of two."""
    if folder is None:
        texts, labels, name = *pieces(40), "Python's manual"
    else:
        with gzip.open(folder / "imdb5k.tsv.gz", "rt", encoding="utf-8") as file:
            labels, texts = zip(*(line.split("\t", 1) for line in file), strict=True)
        name = "IMDB"
    texts, texts_test, y, y_test = train_test_split(
        texts, np.array(labels, np.int32), test_size=0.2, stratify=labels, random_state=0
    )
    bag = CountVectorizer(max_features=words, binary=True, dtype=np.uint8)  # pyright: ignore[reportArgumentType]
    x: Any = bag.fit_transform(texts)
    x_test: Any = bag.transform(texts_test)
    return Data(x.toarray(), np.asarray(y), x_test.toarray(), np.asarray(y_test), name)


def digits() -> Data:
    """scikit-learn's digits, a fifth of them for the test."""
    x, y = load_digits(return_X_y=True)
    x = np.asarray(x, np.float32).reshape(-1, 8, 8, 1) / 16
    x, x_test, y, y_test = train_test_split(x, np.asarray(y, np.int32), test_size=0.2, stratify=y, random_state=0)
    return Data(np.asarray(x), np.asarray(y), np.asarray(x_test), np.asarray(y_test), "digits")


def stored(path: Path) -> tuple[np.ndarray, ...]:
    """The four arrays of an npz file."""
    with np.load(path) as file:
        arrays = [file[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    return tuple(a.astype(np.float32 if a.ndim > 1 else np.int32) for a in arrays)


def halved(x: np.ndarray) -> np.ndarray:
    """The means of 2 by 2 pixels."""
    n, height, width, colours = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, colours).mean((2, 4))


def pieces(length: int) -> tuple[list[str], list[int]]:
    """The manual in pieces of so many words, and whether a piece is from a topic on types."""
    texts, labels = [], []
    for topic, text in topics.items():
        words = text.split()
        for begin in range(0, len(words), length):
            texts.append(" ".join(words[begin : begin + length]))
            labels.append(int(topic.startswith(("types", "string", "bltin", "numeric", "sequence", "specialnames"))))
    return texts, labels
