"""Anthropic's Messages API: fields and blocks in, one message or a stream of events out."""
