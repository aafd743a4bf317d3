"""What a file is by its first bytes."""

from __future__ import annotations

from pathlib import Path

from lvm.core.outside import regular

PARQUET, ARRAY, SAFETENSORS = "a Parquet file", "a single array (.npy)", "a safetensors file"
MAGIC = {
    b"PK": "a .npz or another zip file",
    b"PAR1": PARQUET,
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": ARRAY,
    b"IxF": "a FAISS index",
    b"Iw": "a FAISS index",
    b"SQLite": "a SQLite database",
    b"\x1f\x8b": "a gzip file",
    b"%PDF": "a PDF",
}


def kind_of(path: Path) -> str | None:
    """Return what a file is, in words; None for what is not known by its first bytes."""
    try:
        with regular(path).open("rb") as handle:
            start = handle.read(9)
        size = path.stat().st_size
    except OSError:
        return None
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < size:
        return SAFETENSORS
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
