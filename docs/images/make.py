"""Draw the pictures of the README and of docs/study.md from a store.

``python docs/images/make.py STORE`` after ``rossbench run NAME --out STORE`` with NAME digits and digits-study. The
figures of docs/study.md are those of its own commands.
"""

import io
import os
import re
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rossbench import cli
from rossbench.report import formats, tables
from rossbench.store import results
from rossbench.store.store import Store

store, here = Path(sys.argv[1]).resolve(), Path(__file__).resolve().parent
console = Console(record=True, width=72, file=io.StringIO(), force_terminal=True)
console.print(Text("$ rossbench report digits", style="bold green"))
for matrix in results.load(Store(store), ["digits"]):
    console.print(formats.to_rich(tables.over_seeds([matrix], "top1")))
picture = console.export_svg(title="rossbench", unique_id="digits")
picture = re.sub(r"@font-face {.*?}\s*", "", picture, flags=re.DOTALL)  # rich's would load a font over the network
(here / "digits.svg").write_text(picture.replace("Fira Code", "ui-monospace, Menlo, Consolas"))

os.chdir(here)
for line in (here.parent / "study.md").read_text().splitlines():
    if line.startswith("rossbench figure") and "--save" in line:
        cli.main([*shlex.split(line)[1:], "--store", str(store)])
