"""Training room: QLoRA adapters, their evaluation and their promotion."""
