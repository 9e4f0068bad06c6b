"""When does an index begin to pay? One query by comparing every vector, beside faiss's HNSW index.

    pip install faiss-cpu
    python bench/search.py --counts 10000,100000,300000 > search.jsonl

Vectors of 128 numbers around 1,000 centres. ``table`` is what ``vitreous search --in features.parquet`` does: reading
the table and comparing all of it. ``memory`` is the same with all vectors in memory already. The index (32 links, 80
candidates while building, 64 while searching) is built once, written, read back, and asked; ``recall`` is the share of
the true 9 nearest that it finds. ``pays after`` is the number of queries, all vectors in memory, after which building
it has cost less than comparing everything.

Standard output: one JSON object with the provenance, then one a row. Standard error: a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, CENTRES, SPREAD, NEAREST, QUERIES = 128, 1000, 0.7, 9, 20


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(count: int, folder: Path) -> dict[str, Any]:
    """One size: seconds of each way."""
    import faiss
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vitreous.search import Vectors, nearest

    random = np.random.default_rng(0)
    centres = random.standard_normal((CENTRES, WIDTH)).astype(np.float32)

    def some(n: int) -> np.ndarray:
        noise = random.standard_normal((n, WIDTH), dtype=np.float32)
        vectors = centres[random.integers(0, CENTRES, n)] + SPREAD * noise
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    vectors, queries = some(count), some(QUERIES)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH)
    names = pa.array([f"pictures/{number:08d}.jpg" for number in range(count)])
    pq.write_table(pa.table({"image": names, "embedding": column}), folder / "table.parquet")

    def table() -> None:
        file = pq.ParquetFile(folder / "table.parquet")
        batches = (
            Vectors(part["image"].to_pylist(), part["image"].to_pylist(), features.reshape(-1, WIDTH))
            for part in file.iter_batches(16384)
            for features in [part["embedding"].flatten().to_numpy()]
        )
        nearest(queries[0], batches, NEAREST)

    true = np.argsort(-(queries @ vectors.T), axis=1)[:, :NEAREST]
    memory = statistics.median(timed(lambda q=q: np.argpartition(-(vectors @ q), NEAREST)) for q in queries)
    seconds = {"table": min(timed(table) for _ in range(3)), "memory": memory}
    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 80, 64
    seconds["build"] = timed(lambda: index.add(vectors))
    faiss.write_index(index, str(folder / "index"))
    seconds["read index"] = timed(lambda: faiss.read_index(str(folder / "index")))
    seconds["ask index"] = statistics.median(timed(lambda q=q: index.search(q[None], NEAREST)) for q in queries)
    _, found = index.search(queries, NEAREST)
    return {
        "vectors": count,
        **{name: round(value, 5) for name, value in seconds.items()},
        "recall": round(float(np.mean([len(set(a) & set(b)) / NEAREST for a, b in zip(true, found, strict=True)])), 3),
        "pays after": round(seconds["build"] / max(memory - seconds["ask index"], 1e-9)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--counts", default="10000,100000,300000")
    asked = parser.parse_args()
    from vitreous.device import hardware

    print(json.dumps({"bench": "search", "load": os.getloadavg()[0], **hardware()}), flush=True)
    for number, count in enumerate(asked.counts.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            found = row(int(count), Path(folder))
        print(json.dumps(found), flush=True)
        if not number:
            print(f"| {' | '.join(found)} |\n|{'---:|' * len(found)}", file=sys.stderr)
        print(f"| {' | '.join(f'{value:,}' for value in found.values())} |", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
