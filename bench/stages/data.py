"""`data@BENCHMARK`: the benchmark's data set as uint8 tensors on disk, split and audited."""

from bench import jobs, prepare, store
from bench.config import Params


def run(params: Params, benchmark: str) -> str:
    section = params.benchmark(benchmark)
    report = prepare.build(benchmark, section, store.dataset_folder(benchmark), jobs.worker_count())
    counts = ", ".join(f"{report['splits'][s]['images']} {s}" for s in store.SPLITS)
    exact, near = (sum(report[f"{kind}_duplicates_across"].values()) for kind in ("exact", "near"))
    return f"{section.dataset.name}: {counts}; {exact} exact and {near} near duplicates across splits"
