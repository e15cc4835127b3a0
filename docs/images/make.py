"""Draw the README's picture: ``python docs/images/make.py STORE`` after ``rossbench run digits --out STORE``."""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rossbench.report import tables
from rossbench.store import Store

console = Console(record=True, width=72, file=io.StringIO(), force_terminal=True)
console.print(Text("$ rossbench report digits", style="bold green"))
for matrix in tables.load(Store(sys.argv[1]), ["digits"]):
    console.print(tables.to_rich(matrix, "top1"))
picture = console.export_svg(title="rossbench", unique_id="digits")
picture = re.sub(r"@font-face {.*?}\s*", "", picture, flags=re.DOTALL)  # rich's would load a font over the network
Path(__file__).with_name("digits.svg").write_text(picture.replace("Fira Code", "ui-monospace, Menlo, Consolas"))
