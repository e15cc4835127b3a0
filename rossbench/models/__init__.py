"""Encoders and what is built on them."""

import warnings

# Of tqdm in a notebook, which timm's client of model hubs imports; rossbench shows no bar by it.
warnings.filterwarnings("ignore", "IProgress not found")
