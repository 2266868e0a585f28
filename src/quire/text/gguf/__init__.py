"""A tokenizer from the metadata of a GGUF file: vocabulary, merges or scores, special tokens, chat templates."""
