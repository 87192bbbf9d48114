// A file that imports AttentionModels also has tensors and errors.
@_exported public import AttentionTensors
