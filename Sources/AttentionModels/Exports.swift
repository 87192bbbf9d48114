// A file that imports AttentionModels also gets the declarations of tensors and errors.
@_exported public import AttentionTensors
