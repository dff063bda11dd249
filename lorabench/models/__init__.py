"""The small pretrained models that ship with lorabench, and the script that made them."""
