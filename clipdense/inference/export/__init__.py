"""Export of models to files that run without clipdense: ONNX, ``torch.export`` and AOTInductor."""
