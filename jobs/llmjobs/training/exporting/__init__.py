"""Other forms of an adapter: merged safetensors and GGUF, each measured before it is kept."""
