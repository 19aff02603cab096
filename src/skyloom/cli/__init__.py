"""The terminal: words to SDK calls, answers to text or JSON."""
