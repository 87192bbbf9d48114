import AttentionProblems

/// The function that libFuzzer calls with each input. If a file is read wrongly, it stops the process, so that
/// libFuzzer keeps the input.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  if let finding = fuzzSafeTensors(UnsafeRawBufferPointer(start: data, count: count)) { fatalError(finding) }
  return 0
}
