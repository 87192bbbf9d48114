// Code that imports tensors also gets contexts and errors.
@_exported public import AttentionRuntime
