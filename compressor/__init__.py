"""nn.Module -> smaller nn.Module. Takes a module, an example and loaders; knows no names of networks or data."""

import logging

# torch's flop counter warns where triton is missing, which compiles for GPUs and which nothing here uses.
logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
