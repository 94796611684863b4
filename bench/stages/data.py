"""`data@BENCHMARK`: the benchmark's data set as uint8 tensors on disk, split and audited."""

from bench import datasets, store
from bench.config import Params


def run(params: Params, benchmark: str) -> str:
    section = params.benchmark(benchmark)
    dataset = datasets.build(section.dataset, section.validation)
    report = datasets.write(dataset, store.dataset_folder(benchmark))
    counts = ", ".join(f"{report['splits'][s]['images']} {s}" for s in store.SPLITS)
    across = sum(report["exact_duplicates_across"].values())
    return f"{section.dataset}: {counts}; {across} exact duplicates across splits"
