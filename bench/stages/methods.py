"""`methods`: of each method on each benchmark of `run`, the files that it consists of and its hyperparameters.

An `unlearn` stage depends on its own method's file here, and so runs again when the method's code changed, or that
of a method which it calls (RUM), or a hyperparameter that it has on this benchmark, and not when another's did.
"""

import methods
from bench import store
from bench.config import Params


def run(params: Params) -> str:
    for benchmark in params.run:
        for name in params.methods:
            store.write_json(store.method_file(benchmark, name), methods.consists_of(params, name, benchmark))
        store.write_json(store.method_file(benchmark, ".order"), list(params.methods))
    return f"{len(params.methods)} methods on {len(params.run)} benchmarks"
