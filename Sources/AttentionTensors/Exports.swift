// Code that imports this module also gets the contexts and errors of AttentionRuntime.
@_exported public import AttentionRuntime
