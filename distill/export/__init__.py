"""Export: a student as an ONNX file that runs without torch, the fastest form that says the same."""
