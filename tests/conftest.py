"""Settings of all tests: no network, and few threads on a machine that runs several things."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
