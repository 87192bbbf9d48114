// Who has tensors has contexts and errors with them.
@_exported public import AttentionRuntime
