import AttentionProblems

/// libFuzzer's entry: stops the process, so that the input is kept, where attention differs from the reference.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  let problem = FuzzedAttention(UnsafeRawBufferPointer(start: data, count: count))
  let finding: String?
  do { finding = try problem.mismatch() } catch { finding = "\(error)" }
  if let finding { fatalError("\(problem): \(finding)") }
  return 0
}
