"""`new-method`: the file of a new method, made from a template that runs, and its entry in params.yaml."""

import re
from contextlib import suppress
from keyword import iskeyword
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bench.config import METHODS, PARAMS, method_files, read_yaml
from bench.errors import BadInput

TEMPLATE = Path(__file__).with_name("templates") / "method.py"
PAPER = re.compile(r"        paper=Paper\(\n.*?\n        \),\n", re.DOTALL)
KEPT = {"base", "steps"}  # modules of methods/ that are no methods


def new_method(name: str, paper: str | None = None, folder: Path = METHODS) -> str:
    """Write methods/NAME.py and add `NAME: {}` to params.yaml; what to do next.

    Args:
        paper: its number on arXiv, as '2302.09880'. Without one the template's own paper stays, that of fine-tuning.

    Raises:
        BadInput: the name or the number is no good, there is such a method or entry, or params.yaml has no block
            `methods:` to add a line to. Nothing is written then.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or iskeyword(name) or name in KEPT:
        raise BadInput(
            f"new-method: '{name}' names no method; take lower-case letters, digits and _, as in `my_method`"
        )
    path, entries = folder / f"{name}.py", read_yaml(PARAMS).get("methods") or {}
    if name in method_files(folder):
        raise BadInput(f"new-method: {path.parent.name}/{path.name} is there already; take another name, or delete it")
    if name in entries:
        raise BadInput(f"new-method: {PARAMS} has an entry methods.{name} already; take another name, or delete it")
    text, entry = module(name, paper), with_entry(PARAMS.read_text(), name)
    path.write_text(text)
    PARAMS.write_text(entry)
    contract = f"python -m pytest tests/methods/test_contract.py -k {name}"
    return f"""wrote methods/{name}.py, fine-tuning until you change it, and `{name}: {{}}` in {PARAMS}. Next:
  {contract}  # what must hold of every method
  {"python -m bench check":{len(contract)}}  # hyperparameters
  {"dvc repro":{len(contract)}}  # its row on the leaderboard
docs/add-a-method.md has more"""


def module(name: str, paper: str | None) -> str:
    """The text of methods/NAME.py."""
    text = TEMPLATE.read_text().replace("NewMethod", "".join(part.capitalize() for part in name.split("_")))
    if paper is None:
        return text
    if not re.fullmatch(r"\d{4}\.\d{4,5}", paper):
        raise BadInput(f"new-method: --paper takes a paper's number on arXiv, as 2302.09880 (got '{paper}')")
    fields = {"title": '"TITLE"', "authors": '"AUTHORS"', "venue": '"arXiv"', "year": f"20{paper[:2]}"}
    fields["url"] = f'"https://arxiv.org/abs/{paper}"'
    lines = "".join(f"            {key}={value},\n" for key, value in fields.items())
    text = PAPER.sub(f"        paper=Paper(\n{lines}        ),\n", text)
    return text.replace("venue and year, with", f"venue and year (arXiv:{paper}), with")


def with_entry(text: str, name: str) -> str:
    """params.yaml with `name: {}` as the last of `methods:`, every other byte as it was.

    A line is put in, since ruamel.yaml's round trip, which keeps comments, breaks long lines anew.
    """
    document, lines = YAML().load(text), text.splitlines(keepends=True)
    keys = list(document)
    block = document.get("methods")
    following = keys[keys.index("methods") + 1 :] if block else []
    end = document.lc.key(following[0])[0] if following else len(lines)
    while end and not lines[end - 1].split("#")[0].strip():
        end -= 1
    indent = block.lc.key(next(iter(block)))[1] if block else 2
    before = "".join(lines[:end])
    changed = f"{before}{'' if before.endswith(chr(10)) else chr(10)}{' ' * indent}{name}: {{}}\n{''.join(lines[end:])}"
    safe = YAML(typ="safe", pure=True)
    wanted = safe.load(text)
    wanted["methods"] = (wanted.get("methods") or {}) | {name: {}}
    with suppress(YAMLError):
        if safe.load(changed) == wanted:
            return changed
    raise BadInput(f"{PARAMS}: methods: is no block of one entry a line; add `{name}: {{}}` to it by hand")
