"""Write trained experiments as ONNX graphs, check what they transcribe, and run them without ESPnet."""
