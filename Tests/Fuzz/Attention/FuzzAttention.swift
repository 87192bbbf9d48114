import AttentionProblems

/// The entry point for libFuzzer. Ends the process if attention differs from the reference, so that libFuzzer keeps the
/// input.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  let problem = FuzzedAttention(UnsafeRawBufferPointer(start: data, count: count))
  let finding: String?
  do { finding = try problem.mismatch() ?? problem.differenceMismatch() } catch { finding = "\(error)" }
  if let finding { fatalError("\(problem): \(finding)") }
  return 0
}
