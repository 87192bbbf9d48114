// Code that imports this module also gets the tensors of AttentionTensors, and the contexts and errors of
// AttentionRuntime.
@_exported public import AttentionTensors
