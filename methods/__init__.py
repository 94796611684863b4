"""The unlearning methods: one file each, found by its name.

A method `name` is the file `methods/name.py` with one subclass of `Method` in it, and an entry
`name:` under `methods:` in params.yaml. Nothing else needs to be told of it.
"""

import importlib
import inspect
from typing import Any

from pydantic import ValidationError

from bench import imports
from bench.config import PARAMS, Params, explain, method_files, unknown
from bench.errors import BadInput
from methods.base import Card, Method


def find(name: str) -> type[Method]:
    """The class of the method of that name.

    Raises:
        BadInput: there is no such file, it cannot be imported, or it holds not just one method.
    """
    if name not in method_files():
        raise BadInput(f"{unknown(name, method_files(), 'method')}; a method is a file methods/<name>.py")
    try:
        module = importlib.import_module(f"methods.{name}")
    except Exception as error:
        raise BadInput(f"methods/{name}.py: cannot be imported: {type(error).__name__}: {error}") from error
    own = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Method) and member.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise BadInput(f"methods/{name}.py: must define one subclass of Method, and defines {len(own)}")
    if not isinstance(getattr(own[0], "card", None), Card):
        raise BadInput(f"methods/{name}.py: {own[0].__name__} must state its card: card = Card(...)")
    return own[0]


def create(name: str, hyperparameters: dict[str, Any], where: str) -> Method:
    """The method with these hyperparameters.

    Raises:
        BadInput: a hyperparameter is unknown or its value not allowed; each on a line after `where`.
    """
    cls = find(name)
    try:
        return cls(**hyperparameters)
    except ValidationError as error:
        lines = explain(error, lambda loc: cls)
        raise BadInput("\n".join(f"{PARAMS}: {where}.{line}" for line in lines)) from None


def consists_of(params: Params, name: str, benchmark: str) -> dict[str, Any]:
    """SHA-256 of the files that an entry of params.yaml is made of, and its hyperparameters on a benchmark."""
    file = params.file(name)
    method = create(file, params.hyperparameters(name, benchmark), f"methods.{name}")
    files = imports.hashes(*(f"methods.{used}" for used in {file, *method.uses()}))
    return {"files": files, "hyperparameters": method.model_dump(mode="json")}


def check(params: Params) -> list[str]:
    """All that is wrong with the hyperparameters in params.yaml, a line each."""
    found: list[str] = []
    for name, block in params.methods.items():
        places = {f"methods.{name}": {k: v for k, v in block.items() if k not in {"benchmarks", "method"}}}
        for benchmark, override in block.get("benchmarks", {}).items():
            places[f"methods.{name}.benchmarks.{benchmark}"] = override
        for where, hyperparameters in places.items():
            try:
                create(params.file(name), hyperparameters, where)
            except BadInput as error:
                found += str(error).splitlines()
    return list(dict.fromkeys(found))
