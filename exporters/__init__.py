"""nn.Module -> a file that a phone runs, each file checked against the module on real images.

`export.export` writes one file in this process, `export_all` several, each format in a process of its own;
`formats.FORMATS` lists the formats and `artifact.read_artifacts` reads what a run left behind.
"""

import logging

# torch.export imports it, and it warns where triton, which compiles for GPUs and which nothing here uses, is missing
logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
