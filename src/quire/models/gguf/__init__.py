"""GGUF, the single-file format of llama.cpp: one file holds weights, sizes, tokenizer and chat template.

container   the file itself: header, metadata, table of tensors        splits   one model in several files
kinds       the number formats of tensors, with what each decodes to   tensors  quantized tensors, decoded where they are used
fields      typed access to metadata, with a record of what was read
spec        metadata to `ModelSpec`                                     names    where each canonical tensor lies
model       all of it together
"""
