"""`reproduction`: reports/published.csv and leaderboards -> reports/reproduction.csv and .md, its figure, LaTeX tables.

Of the benchmarks that are compared, those in `run` are read from their tables, which DVC knows of. The others'
leaderboards are committed files that no stage here makes; the page names each that it read by its hash.
"""

import hashlib

from bench import store
from bench.config import Params
from bench.figures import reproduction as figure
from bench.figures.style import save
from bench.report import paper_tables, published, reproduction


def run(params: Params) -> str:
    numbers, texts = published.read(), reproduction.leaderboards(params)
    table = reproduction.compare(numbers, reproduction.read(texts))
    hashes = {benchmark: hashlib.sha256(text.encode()).hexdigest() for benchmark, text in texts.items()}
    store.write_text(store.REPORTS / "reproduction.csv", table.to_csv(index=False, float_format="%.6g"))
    path = store.REPORTS / "reproduction.md"
    store.write_text(path, reproduction.markdown(params, table, numbers, hashes))
    for layout in paper_tables.LAYOUTS:
        store.write_text(store.REPORTS / "latex" / f"{layout.name}.tex", paper_tables.render(layout, table))
    save(figure.draw(table), store.REPORTS / "figures" / "reproduction")
    counts = table["result"].value_counts()
    return ", ".join(f"{count} {result}" for result, count in counts.items()) + f"; {path}"
