"""`methods`: the files that each method of params.yaml consists of, by their hashes.

An `unlearn` stage depends on its own method's hashes, and so runs again when that method's file changed,
or that of a method which it calls (RUM), and not when another's did.
"""

import methods
from bench import store
from bench.config import METHODS, Params


def run(params: Params) -> str:
    for name, block in params.methods.items():
        file = params.file(name)
        files = {file}
        for benchmark in (None, *block.get("benchmarks", {})):
            hyperparameters = params.hyperparameters(name, benchmark or "")
            files |= methods.create(file, hyperparameters, f"methods.{name}").uses()
        hashes = {f"methods/{f}.py": store.sha256(METHODS / f"{f}.py") for f in sorted(files)}
        store.write_json(store.method_hash_file(name), hashes)
    return f"{len(params.methods)} methods"
