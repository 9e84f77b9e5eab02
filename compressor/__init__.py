"""nn.Module -> smaller nn.Module. Takes a module, an example and loaders; knows no names of networks or data."""
