"""`methods`: of each method on each benchmark of `run`, the files that it consists of and its hyperparameters.

An `unlearn` stage depends on its own method's file here, and so runs again when the method's code changed, or that
of a method which it calls (RUM), or a hyperparameter that it has on this benchmark, and not when another's did.
"""

import methods
from bench import store
from bench.config import METHODS, Params


def run(params: Params) -> str:
    for benchmark in params.run:
        for name in params.methods:
            file = params.file(name)
            method = methods.create(file, params.hyperparameters(name, benchmark), f"methods.{name}")
            hashes = {f"methods/{f}.py": store.sha256(METHODS / f"{f}.py") for f in sorted({file, *method.uses()})}
            store.write_json(
                store.method_file(benchmark, name),
                {"files": hashes, "hyperparameters": method.model_dump(mode="json")},
            )
        store.write_json(store.method_file(benchmark, ".order"), list(params.methods))
    return f"{len(params.methods)} methods on {len(params.run)} benchmarks"
