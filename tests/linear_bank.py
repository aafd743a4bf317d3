"""A small bank on disk in which the next vector can be learned: for runs in processes of their own.

A vector is a fixed direction plus a point that a rotation moves on, with a little noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lvm.core.randomness import numpy_generator
from lvm.data.bank import Bank
from lvm.data.files import write_bank

ARTICLES, CHUNKS, WIDTH = 40, 25, 32
NOISE = 0.3  # length of the noise in each move of a point of length 1
# A recipe whose temperature is wrong for this bank.
RECIPE = """\
[model]
hidden = 32
state = 16
num_layers = 1
head_dim = 32
[head]
hidden = 32
width = 16
[objective]
temperature = 0.02
[training]
epochs = 2
batch_size = 32
learning_rate = 0.01
[gates]
stage_eval_cosine = 0.77
success_r_at_5 = 0.2
success_mrr = 0.2
[schedule]
short_epochs = 4
long_epochs = 2
first_rung = 1
confirm_workers = 2
"""
SPLIT = {"train": range(20), "dev": range(20, 30), "test": range(30, 40)}


def linear_world(articles: int = ARTICLES, chunks: int = CHUNKS) -> Bank:
    """Return a bank of unit vectors along (fixed direction + moving point)."""
    generator = numpy_generator(0, "linear world")
    rotation, _ = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))
    fixed = _unit(generator.normal(size=WIDTH))
    rows = []
    for _ in range(articles):
        point = _unit(generator.normal(size=WIDTH))
        for _ in range(chunks):
            rows.append(_unit(point + fixed))
            noise = generator.normal(size=WIDTH) / np.sqrt(WIDTH)
            point = _unit(rotation @ point + NOISE * noise)
    keys = np.array([(a, c) for a in range(articles) for c in range(chunks)], np.int32)
    return Bank(np.array(rows, np.float32), keys)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def write(folder: Path) -> Path:
    """Write the bank with its split; return the folder."""
    bank = linear_world()
    split = {name: list(articles) for name, articles in SPLIT.items()}
    write_bank(folder, bank.vectors, bank.keys, {"split": split})
    return folder
