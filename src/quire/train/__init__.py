"""Teacher-forced training: texts to a tokenizer and a `Decoder`, and the result to a model directory. Needs the torch extra."""
