"""The kinds of nodes that Headrace brings, one file each."""

from flows.nodes import condition, end, llm, message, prompt, question, set_, start

__all__ = ["condition", "end", "llm", "message", "prompt", "question", "set_", "start"]
