// Who imports AttentionModels has tensors and errors with it.
@_exported public import AttentionTensors
