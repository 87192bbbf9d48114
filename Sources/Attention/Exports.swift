// Importing Attention also imports tensors and errors.
@_exported public import AttentionTensors
