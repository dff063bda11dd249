"""Chat templates, and a conversation as every layout writes it."""

import json

import numpy as np

from lorabench.tasks import instruct

TURN = "{{ '<|im_start|>' + m['role'] + '\n' }}"
OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = "{% for m in messages %}" + TURN + "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}" + OPEN
MARKED = (
    "{% for m in messages %}" + TURN + "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + "
        "'<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}" + OPEN
)  # fmt: skip
THINKING = (  # as Qwen3: an empty thought after the last question alone, so that earlier turns are no prefixes
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last "
        "= loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}" + TURN
    + "{% if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' }}{% endif "
        "%}{{ m.content + '<|im_end|>\n' }}{% endfor %}" + OPEN
)  # fmt: skip
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello! How are you?"},
    {"role": "user", "content": "Fine. Who won?"},
    {"role": "assistant", "content": "I did."},
]


def written(tmp_path, talk, n=20, field="messages", **others):
    """A file of n conversations that differ in their first turn."""
    rows = []
    for i in range(n):
        first = {**talk[0], **{k: f"{talk[0][k]} {i}" for k in ("content", "value") if isinstance(talk[0].get(k), str)}}
        rows.append({field: [first, *talk[1:]], "id": i, **others})
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def said(tokenizer, example):
    """The texts of an example's runs of predicted tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], example.predicted.astype(int), [0]])))
    return [tokenizer.decode(example.ids[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def load(tokenizer, file, length=256, **options):
    return instruct.load(instruct.Options(train=file, **options), tokenizer, length)


PAIRS = [{"question": f"How many are {i}?", "answer": f"There are {i}. #### {i}"} for i in range(20)]
