"""Published measurements of fine-tuning with LoRA and its relatives, as data: who measured what, where it is printed,
and what is wrong with it."""
