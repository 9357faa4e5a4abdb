"""What turns texts into vectors beside torch: ONNX Runtime and the providers, and how each counts tokens."""
