"""nn.Module -> a file that a phone runs, each file checked against the module on real images.

`export.export` writes one file in this process, `export_all` several, each format in a process of its own;
`formats.FORMATS` lists the formats and `artifact.read_artifacts` reads what a run left behind.
"""
