import AttentionProblems

/// libFuzzer's entry: stops the process, so that the input is kept, where a file is read wrongly.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  if let finding = fuzzSafeTensors(UnsafeRawBufferPointer(start: data, count: count)) { fatalError(finding) }
  return 0
}
